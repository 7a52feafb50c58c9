use super::*;

#[test]
fn arguments_pin_workers_and_float_the_main_lcore() {
    let config = EalConfig { main_cpus: vec![0, 1], worker_cpus: vec![0, 1], ..EalConfig::default() };
    let arguments = config.arguments().join(" ");
    assert!(arguments.contains("--lcores 0@(0,1),1@0,2@1"), "{arguments}");
    assert!(arguments.contains("--in-memory"), "{arguments}");
    assert!(arguments.contains("--no-pci"), "{arguments}");
}

#[test]
fn naming_a_device_turns_the_pci_scan_on() {
    let config = EalConfig { pci: vec!["0000:3b:00.1".into()], ..EalConfig::default() };
    let arguments = config.arguments().join(" ");
    assert!(arguments.contains("-a 0000:3b:00.1"), "{arguments}");
    assert!(!arguments.contains("--no-pci") && !arguments.contains("--iova-mode"), "{arguments}");
}

#[test]
fn ordinary_pages_have_a_size() {
    let config = EalConfig { memory: Memory::NoHuge { mib: 96 }, ..EalConfig::default() };
    assert!(config.arguments().join(" ").contains("--no-huge -m 96"));
}

#[test]
fn a_nul_byte_is_an_error_and_does_not_use_up_the_start() {
    let config = EalConfig { program: "a\0b".into(), ..EalConfig::default() };
    assert!(matches!(Eal::init(&config), Err(DpdkError::Nul(_))));
    assert!(!STARTED.load(Ordering::SeqCst));
}
