//! What a program may do that `middlenet confine` starts, under this user, whoever that is: no root is needed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder of this test's. Dropping it removes it.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("middlenet-confine-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn confinement(reads: &[&Path], writes: &[&Path]) -> Value {
    json!({ "user": null, "maps": false, "files": { "reads": reads, "writes": writes } })
}

fn confined(confinement: &Value, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_middlenet"));
    command.args(["confine", &confinement.to_string(), program]).args(arguments).output().unwrap()
}

/// What a shell says to a script; it needs no other program for it.
fn shell(confinement: &Value, script: &str) -> Result<String, String> {
    let output = confined(confinement, "/bin/sh", &["-c", script]);
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

#[test]
fn files_are_closed_but_for_those_that_are_named() {
    let folder = Folder::new("files");
    let (table, log) = (folder.write("table", "secret\n"), folder.write("log", ""));
    let (read, write) = (format!("read x < {} && echo $x", table.display()), format!("echo x >> {}", log.display()));
    let nothing = confinement(&[], &[]);
    for script in [&read, &write, "read x < /etc/passwd", "read x < /proc/self/environ"] {
        let refused = shell(&nothing, script).unwrap_err();
        assert!(refused.contains("Permission denied"), "{script}: {refused}");
    }
    let some = confinement(&[&table], &[&log]);
    assert_eq!(shell(&some, &read), Ok("secret\n".into()));
    shell(&some, &write).unwrap();
    assert_eq!(fs::read_to_string(&log).unwrap(), "x\n");
    // To read is not to write, nor the other way round, when they are in folders of their own.
    let other = Folder::new("other");
    let apart = confinement(&[&table], &[&other.0.join("new")]);
    assert!(shell(&apart, &write).is_err());
    shell(&apart, &format!("echo y > {}", other.0.join("new").display())).unwrap();
    assert!(shell(&apart, &format!("read x < {}", other.0.join("new").display())).is_err());
}

#[test]
fn no_process_is_started_and_none_is_signalled() {
    let refused = shell(&confinement(&[], &[]), "/bin/true").unwrap_err();
    assert!(refused.contains("fork") || refused.contains("not permitted"), "{refused}");
    let script = format!("kill -0 {}", std::process::id());
    let refused = shell(&confinement(&[], &[]), &script).unwrap_err();
    assert!(refused.contains("not permitted"), "{refused}");
    assert_eq!(shell(&confinement(&[], &[]), "kill -0 $$ && echo itself"), Ok("itself\n".into()));
}

#[test]
fn what_came_over_is_closed() {
    let folder = Folder::new("inherited");
    let secret = folder.write("secret", "secret\n");
    let middlenet = env!("CARGO_BIN_EXE_middlenet");
    let outer = |inner: &str| {
        let script = format!("exec 7< {}; exec {inner} /bin/sh -c 'read x <&7 && echo $x'", secret.display());
        Command::new("/bin/sh").args(["-c", &script]).output().unwrap()
    };
    // The control experiment.
    assert_eq!(outer("").stdout, b"secret\n");
    let output = outer(&format!("{middlenet} confine '{}'", confinement(&[], &[])));
    assert!(output.stdout.is_empty() && !output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.to_lowercase().contains("bad file descriptor"), "{said}");
}

#[test]
fn programs_that_cannot_be_executed_are_named() {
    let folder = Folder::new("programs");
    let missing = folder.0.join("missing");
    let output = confined(&confinement(&[], &[]), missing.to_str().unwrap(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("{} cannot be executed: No such file", missing.display())), "{said}");
    let text = folder.write("text", "no program");
    fs::set_permissions(&text, fs::Permissions::from_mode(0o644)).unwrap();
    let output = confined(&confinement(&[], &[]), text.to_str().unwrap(), &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("`chmod a+x`"), "{said}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn scripts_are_read_by_their_interpreters() {
    let folder = Folder::new("scripts");
    let script = folder.write("script", "#!/bin/sh\necho \"$1\"\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let output = confined(&confinement(&[], &[]), script.to_str().unwrap(), &["--describe"]);
    assert_eq!(output.stdout, b"--describe\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_function_is_confined_when_it_is_asked_what_it_is() {
    let folder = Folder::new("describe");
    // Anybody may write there: what stands in the way is the confinement alone.
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o777)).unwrap();
    let describe = r#"{"name":"own","schema":{"type":"object"}}"#;
    let script =
        folder.write("own", &format!("#!/bin/sh\necho x > {}/trace || true\necho '{describe}'\n", folder.0.display()));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let manifest = "name: a\nports: { p: { dpdk: net_null0 } }\nchains:\n  c:\n    ports: [p]\n    functions: [{ own: { run: ./own, config: {} } }]\n";
    let manifest = folder.write("m.yaml", manifest);
    let output = Command::new(env!("CARGO_BIN_EXE_middlenet")).arg("check").arg(&manifest).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.0.join("trace").exists());
    // The control experiment.
    assert!(Command::new(&script).output().unwrap().status.success());
    assert!(folder.0.join("trace").exists());
}
