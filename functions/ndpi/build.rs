//! Finds the host's nDPI with pkg-config, and compiles the shim against its headers: the C compiler checks every call.

use std::process::exit;

/// The oldest release whose functions the shim calls; 4.4 and later changed some of them.
const OLDEST: &str = "4.2";
const NEXT: &str = "4.3";

fn fail(problem: &str, remedy: &str) -> ! {
    eprintln!("\nerror: {problem}\n\nhint: {remedy}\n");
    exit(1)
}

fn main() {
    println!("cargo:rerun-if-changed=src/shim.c");
    let library = pkg_config::Config::new().range_version(OLDEST..NEXT).cargo_metadata(false).probe("libndpi");
    let library = library.unwrap_or_else(|error| {
        fail(
            &format!("`edpi` needs nDPI {OLDEST}, and pkg-config does not find it: {error}"),
            "apt-get install libndpi-dev pkg-config   (Debian 12); the functions build without it where the feature `ndpi` is off",
        )
    });
    let built = cc::Build::new().file("src/shim.c").includes(&library.include_paths).try_compile("middlenet_ndpi_shim");
    if let Err(error) = built {
        fail(&format!("the shim of nDPI does not compile: {error}"), "apt-get install gcc libndpi-dev");
    }
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    // What nDPI needs for itself (libgcrypt, libm) the dynamic linker finds.
    println!("cargo:rustc-link-lib=dylib=ndpi");
}
