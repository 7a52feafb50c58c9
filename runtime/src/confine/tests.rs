use super::*;

#[test]
fn the_command_line_carries_the_confinement() {
    let confinement = Confinement {
        user: Some(Ids { uid: 1900, gid: 1901 }),
        files: Files { reads: vec!["/srv/a table".into()], writes: vec!["/var/log/edge/x.log".into()] },
        maps: true,
    };
    let built_in = command(Path::new("/usr/bin/middlenet"), &Program::BuiltIn("monitor".into()), &confinement).unwrap();
    let words: Vec<_> = built_in.get_args().map(|a| a.to_str().unwrap().to_owned()).collect();
    assert_eq!(words[..2], ["fn", "monitor"]);
    assert_eq!(serde_json::from_str::<Confinement>(&words[2]).unwrap(), confinement);
    let own = command(Path::new("/usr/bin/middlenet"), &Program::External("/opt/f".into()), &confinement).unwrap();
    let words: Vec<_> = own.get_args().map(|a| a.to_str().unwrap().to_owned()).collect();
    assert_eq!((words[0].as_str(), words[2].as_str()), ("confine", "/opt/f"));
}

#[test]
fn what_is_no_confinement_starts_nothing() {
    for text in
        ["", "{}", "{\"user\":{\"uid\":-1,\"gid\":0},\"files\":{\"reads\":[],\"writes\":[]},\"maps\":false}", "[]"]
    {
        assert!(matches!(enter(text), Err(ConfineError::Form(_))), "{text}");
        let executed = execute(text, Path::new("/bin/true"), &[]);
        assert!(matches!(executed, Err(ConfineError::Form(_))), "{text}");
    }
}

#[test]
fn files_are_made_for_the_user_and_nothing_that_is_there_changes_hands() {
    let folder = std::env::temp_dir().join(format!("middlenet-make-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let own = Ids { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
    let made = folder.join("made");
    make(&made, own).unwrap();
    assert_eq!(std::fs::read(&made).unwrap(), b"");
    std::fs::write(&made, "kept").unwrap();
    // A link leads nowhere, also where its target is not there.
    let link = folder.join("link");
    std::os::unix::fs::symlink(folder.join("target"), &link).unwrap();
    for there in [&made, &link, &folder.join("no/folder"), &folder] {
        make(there, own).unwrap();
    }
    assert_eq!(std::fs::read(&made).unwrap(), b"kept");
    assert!(!folder.join("target").exists());
    std::fs::remove_dir_all(&folder).unwrap();
}
