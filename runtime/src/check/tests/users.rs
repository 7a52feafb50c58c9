//! Users of runs, and files of functions.

use super::*;
use crate::confine::Files;
use crate::plan::DomainUser;

/// A manifest with the real functions of this project.
fn real(functions: &str) -> Plan {
    let source = chain_of(functions);
    let manifest = Manifest::parse(&source).unwrap();
    plan(&manifest, middlenet_functions::registry(), &host(2), &Nowhere, &Traffic::Ports)
        .unwrap_or_else(|p| panic!("{}", Refusal::new("m.yaml", &source, p).plain()))
}

fn files(plan: &Plan) -> Vec<&Files> {
    plan.runtime.processes.iter().map(|p| &p.files).collect()
}

#[test]
fn a_run_has_the_user_of_its_manifest_or_its_own() {
    let with = |user: &str| planned(&format!("{user}{}", chain_of("      - monitor\n"))).runtime.user;
    assert_eq!(with(""), DomainUser::Own);
    let known = DomainUser::Given(Ids { uid: 990, gid: 991 });
    assert_eq!((with("user: middlenet\n"), with("user: 990\n")), (known, known));
    // A number needs no name; its group has the same.
    assert_eq!(with("user: 52001\n"), DomainUser::Given(Ids::alike(52001)));
}

#[test]
fn root_and_unknown_users_are_refused() {
    let with = |user: &str| errors(&format!("user: {user}\n{}", chain_of("      - monitor\n")));
    let root = "1:7 functions do not run as root, nor in its group: they could reach every other run|\
                name another user, or remove `user`: then the run has one of its own";
    assert_eq!((with("root"), with("0")), (vec![root.to_owned()], vec![root.to_owned()]));
    let unknown = "1:7 this host has no user `edeg`|\
                   `useradd --system --no-create-home NAME` makes one; without `user`, the run has one of its own";
    assert_eq!(with("edeg"), [unknown]);
    assert_eq!(with("4294967295").len(), 1);
    for neither in ["-1", "4294967296", "[a]", "true"] {
        assert_eq!(with(neither).len(), 1, "{neither}");
    }
}

#[test]
fn another_user_needs_a_restart() {
    let manifest = chain_of("      - monitor\n");
    let difference = Difference::between(&planned(&manifest), &planned(&format!("user: middlenet\n{manifest}")));
    assert_eq!(difference.structural.len(), 1);
    assert!(difference.structural[0].starts_with("user: own would become given("), "{:?}", difference.structural);
}

#[test]
fn files_of_configurations_and_options_are_known_beforehand() {
    let addresses = "addresses: [{ address: 10.1.0.1/24, port: wan }]";
    let table = std::env::temp_dir().join(format!("middlenet-routes-{}", std::process::id()));
    std::fs::write(&table, "10.7.0.0/16 wan\n").unwrap();
    let shown = table.display();
    for form in [format!("{shown}"), format!("{{ path: {shown}, port: wan }}")] {
        let planned = real(&format!("      - l3-router: {{ {addresses}, routes_file: {form} }}\n"));
        assert_eq!(files(&planned), [&Files { reads: vec![table.clone()], writes: vec![] }], "{form}");
    }
    let planned = real(&format!(
        "      - mine: {{ use: l3-router, config: {{ {addresses} }}, reads: [tables, /srv/x], writes: [../log] }}\n"
    ));
    let expected = Files {
        reads: vec!["/etc/middlenet/tables".into(), "/srv/x".into()],
        writes: vec!["/etc/middlenet/../log".into()],
    };
    assert_eq!(files(&planned), [&expected]);
    std::fs::remove_file(table).unwrap();

    let log = |to: &str| {
        let source = format!(
            "name: web\nchains:\n  web:\n    layer: l4l7\n    listen: 127.0.0.1:8080\n    upstreams: [127.0.0.1:8081]\n    functions:\n      - access-log: {{ {to} }}\n"
        );
        let manifest = Manifest::parse(&source).unwrap();
        let planned = plan(&manifest, middlenet_functions::registry(), &host(2), &Nowhere, &Traffic::Ports);
        planned.unwrap_or_else(|p| panic!("{}", Refusal::new("m.yaml", &source, p).plain()))
    };
    let (file, other, stream) = (log("file: /var/log/edge/a.log"), log("file: /srv/b.log"), log("file: stdout"));
    assert_eq!(files(&file), [&Files { reads: vec![], writes: vec!["/var/log/edge/a.log".into()] }]);
    assert_eq!(files(&stream), [&Files::default()]);
    // The confinement of a process that runs does not change.
    let moved = Difference::between(&file, &other);
    assert_eq!(
        (moved.changes, moved.structural),
        (vec![], vec!["function `web/access-log` would open other files".to_owned()])
    );
}

#[test]
fn a_function_of_ones_own_names_its_files_in_the_manifest_alone() {
    let plan = planned(&chain_of("      - own: { run: ./ttl-clamp, config: { max_ttl: 3 }, reads: [/srv/geo.db] }\n"));
    assert_eq!(files(&plan), [&Files { reads: vec!["/srv/geo.db".into()], writes: vec![] }]);
}
