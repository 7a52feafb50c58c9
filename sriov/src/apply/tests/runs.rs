//! Several runs on one PF. That changes are made in turn, the fake host asserts at each.

use super::*;

/// What a run set up for all is not undone under the feet of another.
#[test]
fn what_another_run_builds_on_stays() {
    let fake = Fake::with_igb();
    fake.edit("eth1", |l| l.up = false);
    let before = fake.picture();
    let (_folder, path) = record();
    let wishes = vec![PfWish { create: 3, ..both().remove(0) }];
    let vfs = Vfs::apply(&fake, &fake, &wishes, &path).unwrap();
    // It has claimed the VF, and not opened it yet.
    fake.of_others.borrow_mut().push(pci("01:10.4"));
    let problems = vfs.release();
    assert_eq!(
        problems,
        ["the virtual functions of 0000:01:00.0 stay: 0000:01:10.4 belongs to the run `core` (process 7)"]
    );
    assert!(fake.device(pci("01:10.4")).exists() && fake.links().unwrap().iter().any(|l| l.name == "eth1" && l.up));
    fake.of_others.borrow_mut().clear();
    assert!(recover(&fake, &fake, &path).unwrap().is_empty());
    assert_eq!(fake.picture(), before);
}

#[test]
fn a_pf_stays_up_for_another_run() {
    let fake = Fake::with_igb();
    fake.make_vfs(pci("01:00.0"), 3);
    fake.edit("eth1", |l| l.up = false);
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    fake.of_others.borrow_mut().push(pci("01:10.4"));
    let problems = vfs.release();
    let line = "0000:01:00.0 stays up: its virtual function 0000:01:10.4 belongs to the run `core` (process 7)";
    assert_eq!(problems, [line]);
    let is_up = || fake.links().unwrap().iter().any(|l| l.name == "eth1" && l.up);
    assert!(is_up() && path.exists());
    fake.of_others.borrow_mut().clear();
    assert!(recover(&fake, &fake, &path).unwrap().is_empty());
    assert!(!is_up() && !path.exists());
}

/// Who does not get its turn touches nothing, and what it should have undone stays written down.
#[test]
fn without_a_turn_nothing_is_touched() {
    let fake = Fake::with_igb();
    let before = fake.picture();
    let (_folder, path) = record();
    let refusal = "another run changes virtual functions of the same NIC: `core` (process 7)";
    fake.no_turn.set(true);
    assert_eq!(Vfs::apply(&fake, &fake, &both(), &path).unwrap_err().to_string(), refusal);
    assert!(fake.picture() == before && !path.exists());

    fake.no_turn.set(false);
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    let made = fake.picture();
    fake.no_turn.set(true);
    assert_eq!(vfs.release(), [refusal]);
    assert_eq!(recover(&fake, &fake, &path).unwrap(), [refusal]);
    assert!(fake.picture() == made && path.exists());

    fake.no_turn.set(false);
    assert!(recover(&fake, &fake, &path).unwrap().is_empty());
    assert!(fake.picture() == before && !path.exists());
}

/// A VF of which only a setting was changed has been changed.
#[test]
fn a_record_names_all_that_was_changed() {
    let fake = Fake::with_igb();
    fake.put("sys/bus/pci/devices/0000:01:00.0/sriov_drivers_autoprobe", "0\n");
    fake.make_vfs(pci("01:00.0"), 2);
    let (_folder, path) = record();
    let web = VfWish { mac: Some(mac(0x11)), ..vf("web", 1, VfDriver::Kernel) };
    fake.dead.set(true);
    // The first change is the setting; all that come after it fail.
    fake.fail_at.set(Some(1));
    assert!(Vfs::apply(&fake, &fake, &one(web), &path).is_err());
    assert_eq!(recorded(&fake, &path).unwrap(), [pci("01:10.2")]);
}
