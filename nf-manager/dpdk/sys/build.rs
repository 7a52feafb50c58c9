//! Finds the host's libdpdk with pkg-config, writes the bindings and compiles the shim of its inline functions.

use std::env;
use std::path::PathBuf;
use std::process::exit;

/// The oldest release whose names the bindings use (`RTE_MBUF_F_*`, `RTE_ETH_*`, `rte_dev_name`, `rte_bus_name`).
const OLDEST: &str = "22.11";

/// The libraries the bindings refer to. libdpdk.pc names all of DPDK; linking it whole makes every start slower.
/// `rte_log` is a library of its own since 24.03.
const LIBRARIES: [&str; 6] = ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_log"];

const FUNCTIONS: &[&str] = &[
    "dpdk_sys_.*",
    "rte_dev_(probe|remove|dma_map|dma_unmap|name|iterator_.*|event_.*)",
    "rte_devargs_.*",
    "rte_eal_(init|cleanup|remote_launch|wait_lcore|get_lcore_state|mp_wait_lcore|has_hugepages|iova_mode|process_type|hotplug_.*)",
    "rte_eth_(rx|tx)_(burst|queue_setup|queue_count|burst_mode_get)",
    "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|count_avail|get_mtu|get_name_by_port|get_port_by_name|info_get|is_removed|is_valid_port|rss_.*|set_mtu|set_link_.*|socket_id|start|stop)",
    "rte_eth_dev_callback_(register|unregister)",
    "rte_flow_(create|destroy|isolate)",
    "rte_eth_dev_default_mac_addr_set|rte_eth_(allmulticast_.*|find_next|find_next_owned_by|iterator_.*|link_.*|macaddr_.*|promiscuous_.*|stats_.*|xstats_.*)",
    "rte_extmem_.*",
    "rte_get_(tsc_hz|tsc_cycles|timer_hz|main_lcore|next_lcore)",
    "rte_lcore_(count|id|index|is_enabled|to_cpu_id|to_socket_id)",
    "rte_log_(set_global_level|get_global_level|set_level|set_level_pattern)",
    "rte_openlog_stream",
    "rte_malloc.*|rte_zmalloc.*|rte_free",
    "rte_mbuf_best_mempool_ops",
    "rte_mem_virt2iova|rte_mem_virt2memseg.*",
    "rte_mempool_(avail_count|in_use_count|calc_obj_size|create_empty|free|get_bulk|put_bulk|lookup|obj_iter|populate_iova|set_ops_byname)",
    "rte_pktmbuf_(alloc|alloc_bulk|free|free_bulk|init|pool_create|pool_create_extbuf|pool_init)",
    "rte_rdtsc",
    "rte_ring_(count|create|create_elem|free|free_count|get_capacity|get_memsize|get_memsize_elem|init|lookup)",
    "rte_ring_(dequeue|enqueue)_(bulk|burst)(_elem)?",
    "rte_socket_id",
    "rte_strerror",
    "rte_version",
];

const TYPES: &[&str] = &[
    "dpdk_sys_layout",
    "rte_dev_iterator",
    "rte_eth_(conf|dev_info|rxconf|txconf|stats|xstat|xstat_name|rss_conf|rx_mq_mode|tx_mq_mode)",
    "rte_eth_event_type",
    "rte_ether_addr",
    "rte_flow_(attr|error|item|action)",
    "rte_flow_item_(eth|vlan|ipv4|ipv6|tcp|udp|sctp)",
    "rte_flow_action_(queue|rss)",
    "rte_iova_mode",
    "rte_mempool_objsz",
    "rte_pktmbuf_pool_private",
    "rte_ring",
];

const VARIABLES: &[&str] = &[
    "DPDK_SYS_.*",
    "RING_F_.*",
    "RTE_ETH_(NAME_MAX_LEN|XSTATS_NAME_SIZE)",
    "RTE_LOG_.*",
    "RTE_MAX_(ETHPORTS|LCORE)",
    "RTE_MEMPOOL_(CACHE_MAX_SIZE|F_.*|NAMESIZE)",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_PKTMBUF_POOL_F_PINNED_EXT_BUF",
    "RTE_VER_.*",
    "RTE_CACHE_LINE_SIZE",
    "RTE_ETH_EVENT_.*",
    "RTE_ETH_HASH_FUNCTION_DEFAULT",
    "RTE_FLOW_(ITEM|ACTION)_TYPE_.*",
    "SOCKET_ID_ANY",
    "stderr",
    "CALL_MAIN|SKIP_MAIN",
];

/// Structures with bit fields, markers or alignments whose layout changes between releases: only pointers to them pass.
const OPAQUE: &[&str] = &["rte_mbuf", "rte_mempool", "rte_device", "rte_bus", "rte_class", "rte_mempool_memhdr"];

fn fail(problem: &str, remedy: &str) -> ! {
    eprintln!("\nerror: {problem}\n\nhint: {remedy}\n");
    exit(1)
}

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    let library = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|error| {
            fail(
                &format!("the nf-manager needs libdpdk {OLDEST} or newer, and pkg-config does not find it: {error}"),
                "apt-get install libdpdk-dev pkg-config   (Debian, Ubuntu); for a DPDK of your own, point PKG_CONFIG_PATH at \
                 the folder that holds libdpdk.pc. `cargo build -p middlenet-sdk` needs no DPDK",
            )
        });
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for name in LIBRARIES.iter().filter(|name| library.libs.iter().any(|lib| lib == *name)) {
        println!("cargo:rustc-link-lib=dylib={name}");
    }
    println!("cargo:version={}", library.version);

    let cflags = cflags();
    let shim = out.join("shim.c");
    let bindings = bindgen_builder(&cflags, &shim).generate();
    let bindings = match bindings {
        Ok(bindings) => bindings,
        Err(error) => {
            fail(&format!("bindgen cannot read the DPDK headers: {error}"), "apt-get install libclang-dev libdpdk-dev")
        }
    };
    bindings.write_to_file(out.join("bindings.rs")).expect("OUT_DIR is writable");

    let mut build = cc::Build::new();
    build.file(&shim).include(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    for flag in &cflags {
        build.flag(flag);
    }
    // The shim holds the receive and transmit paths; -O0 there would make a debug build of everything else useless.
    build.opt_level(3).warnings(false).flag_if_supported("-Wno-deprecated-declarations");
    if let Err(error) = build.try_compile("dpdk_sys_shim") {
        fail(
            &format!("the shim of DPDK's inline functions does not compile: {error}"),
            "apt-get install gcc libdpdk-dev",
        );
    }
}

/// What libdpdk.pc wants of a C compiler (`-include rte_config.h`, `-march=...`), which `pkg_config::Library` leaves out.
fn cflags() -> Vec<String> {
    let pkg_config = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
    let output = std::process::Command::new(pkg_config).args(["--cflags", "libdpdk"]).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        }
        _ => fail("pkg-config --cflags libdpdk fails", "apt-get install libdpdk-dev pkg-config"),
    }
}

fn bindgen_builder(cflags: &[String], shim: &std::path::Path) -> bindgen::Builder {
    // Loading libclang panics with a long text of its own; look for it first, to say which package brings it.
    if let Err(problem) = libclang() {
        fail(&problem, "apt-get install libclang-dev   (or set LIBCLANG_PATH to the folder of libclang.so)");
    }
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(cflags)
        .clang_arg("-Wno-everything")
        .wrap_static_fns(true)
        .wrap_static_fns_path(shim)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .derive_default(true)
        .layout_tests(true)
        .generate_comments(false)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    for pattern in FUNCTIONS {
        builder = builder.allowlist_function(pattern);
    }
    for pattern in TYPES {
        builder = builder.allowlist_type(pattern);
    }
    for pattern in VARIABLES {
        builder = builder.allowlist_var(pattern);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name).blocklist_type(format!("{name}__bindgen_.*"));
    }
    builder
}

fn libclang() -> Result<(), String> {
    std::panic::catch_unwind(bindgen::clang_version)
        .map(drop)
        .map_err(|_| "bindgen needs libclang to read the DPDK headers, and there is none".to_owned())
}
