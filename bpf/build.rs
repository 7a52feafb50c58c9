//! Compiles every BPF program of this crate with clang and generates its skeleton.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs};

use libbpf_cargo::SkeletonBuilder;

/// One `src/bpf/NAME.bpf.c` each.
const PROGRAMS: [&str; 5] = ["xdp_redirect", "skmsg_route", "steer_rules", "fast_path", "xdp_flood"];

/// What they include.
const HEADERS: [&str; 11] = [
    "head.h",
    "first_match.h",
    "hand_over.h",
    "steer.h",
    "stages.h",
    "fast_path.h",
    "maps.h",
    "lookup.h",
    "connections.h",
    "rewrite.h",
    "way.h",
];

/// Where `middlenet_descriptor.h` is: BPF and functions in C see the same one.
const DESCRIPTOR_FOLDER: &str = "../sdk/shm/include";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    println!("cargo::rerun-if-env-changed=CLANG");
    let clang = env::var_os("CLANG").map_or_else(|| PathBuf::from("clang"), PathBuf::from);
    let found = Command::new(&clang).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        return Err(format!(
            "cannot run {}, which compiles the BPF programs\n\nhint: apt-get install clang (or set CLANG)",
            clang.display()
        ));
    }

    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?);
    println!("cargo::rerun-if-changed={DESCRIPTOR_FOLDER}");
    for header in HEADERS {
        println!("cargo::rerun-if-changed=src/bpf/{header}");
    }
    for name in PROGRAMS {
        let source = PathBuf::from(format!("src/bpf/{name}.bpf.c"));
        println!("cargo::rerun-if-changed={}", source.display());
        SkeletonBuilder::new()
            .source(&source)
            .clang(&clang)
            .clang_args(clang_args())
            .build_and_generate(out_dir.join(format!("{name}.skel.rs")))
            .map_err(|error| {
                format!(
                    "cannot compile {}: {error:#}\n\nhint: apt-get install clang libelf-dev zlib1g-dev linux-libc-dev",
                    source.display()
                )
            })?;
    }
    Ok(())
}

/// Warnings are errors. Version 3 of the instruction set has compare-and-swap (Linux 5.12). Debian keeps `asm/types.h` in a folder per architecture, where clang's BPF target does not look.
fn clang_args() -> Vec<OsString> {
    let mut args: Vec<OsString> =
        ["-Wall", "-Werror", "-mcpu=v3", "-I", DESCRIPTOR_FOLDER].into_iter().map(OsString::from).collect();
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let multiarch = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    if fs::metadata(multiarch.join("asm")).is_ok() {
        args.push("-I".into());
        args.push(multiarch.into());
    }
    args
}
