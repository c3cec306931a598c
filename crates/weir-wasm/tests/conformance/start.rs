//! Loading and starting: versions, imports, allocators, order, configuration, environment.
#![allow(clippy::unwrap_used)]
use super::guests::*;
use weir_wasm::{inspect::inspect, *};

const MALLOC: &str = r#"(memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) i32.const 8)"#;

fn compile_text(wat: &str) -> Result<Module, ModuleError> {
    compile(&wat::parse_str(wat).unwrap())
}

#[test]
fn versions() {
    for (marker, expected) in [
        ("(func (export \"proxy_abi_version_0_1_0\"))", Ok(Abi::V0_1_0)),
        ("(func (export \"proxy_abi_version_0_2_0\"))", Ok(Abi::V0_2_0)),
        ("(func (export \"proxy_abi_version_0_2_1\"))", Ok(Abi::V0_2_1)),
        ("(func (export \"proxy_abi_version_0_2_100\"))", Ok(Abi::V0_2_100)),
        ("", Err(ModuleError::NoAbi)),
        ("(func (export \"proxy_abi_version_0_3_0\"))", Err(ModuleError::UnknownAbi("0.3.0".into()))),
        // The first known one counts.
        ("(func (export \"proxy_abi_version_0_3_0\")) (func (export \"proxy_abi_version_0_2_0\"))", Ok(Abi::V0_2_0)),
    ] {
        assert_eq!(compile_text(&format!("(module {MALLOC} {marker})")).map(|m| m.abi()), expected, "{marker}");
    }
}

#[test]
fn what_is_missing_is_named() {
    let marker = r#"(func (export "proxy_abi_version_0_2_1"))"#;
    for (wat, expected) in [
        (
            format!(r#"(module (import "env" "proxy_fly" (func)) {MALLOC} {marker})"#),
            "imports env.proxy_fly, which this host does not have",
        ),
        (format!(r#"(module (import "env" "memory" (memory 1)) {marker})"#), "imports env.memory, which this host does not have"),
        (format!(r#"(module (memory (export "memory") 1) {marker})"#), "exports no allocator"),
        (
            format!(r#"(module (memory (export "memory") 1) (func (export "malloc") (result i32) i32.const 0) {marker})"#),
            "exports no allocator",
        ),
        (format!(r#"(module (func (export "malloc") (param i32) (result i32) i32.const 0) {marker})"#), "exports no linear memory"),
        (format!(r#"(module (import "env" "proxy_log" (func (param i32))) {MALLOC} {marker})"#), "proxy_log"),
    ] {
        let error = compile_text(&wat).unwrap_err().to_string();
        assert!(error.contains(expected), "{error} does not say: {expected}");
    }
    let error = compile(b"not wasm").unwrap_err();
    assert!(matches!(error, ModuleError::Invalid(_)), "{error}");
}

#[test]
fn an_export_of_the_wrong_type_is_named() {
    let error = start_with("0.2.1", r#"(func (export "proxy_on_tick") (result i32) i32.const 0)"#, &PluginSpec::new("p")).err().unwrap();
    assert!(matches!(error, StartError::Export { name: "proxy_on_tick", .. }), "{error}");
}

#[test]
fn allocators() {
    let body = |exports: &str| {
        format!(
            r#"(module (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
              (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
              (memory (export "memory") 1) (data (i32.const 100) "malloc") (data (i32.const 200) "on_memory_allocate")
              (func (export "proxy_abi_version_0_2_0")) {exports}
              (func (export "proxy_on_configure") (param i32 i32) (result i32)
                (call $get (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 20) (i32.const 24)) drop i32.const 1))"#
        )
    };
    let malloc = r#"(func (export "malloc") (param i32) (result i32) (drop (call $log (i32.const 2) (i32.const 100) (i32.const 6))) i32.const 1000)"#;
    let other = r#"(func (export "proxy_on_memory_allocate") (param i32) (result i32)
        (drop (call $log (i32.const 2) (i32.const 200) (i32.const 18))) i32.const 1000)"#;
    for (exports, expected) in
        [(malloc.to_owned(), "malloc"), (other.to_owned(), "on_memory_allocate"), (format!("{other} {malloc}"), "malloc")]
    {
        let proxy = std::rc::Rc::new(Proxy::default());
        let spec = PluginSpec { configuration: b"x".to_vec(), ..PluginSpec::new("p") };
        Instance::start(&compile_text(&body(&exports)).unwrap(), &spec, proxy.clone()).unwrap();
        assert_eq!(proxy.messages(), [expected]);
    }
}

/// Go's allocator panics when it is asked for nothing.
#[test]
fn an_empty_value_needs_no_allocation() {
    let running = start(
        "0.2.1",
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (i32.store (i32.const 20) (i32.const -1)) (i32.store (i32.const 24) (i32.const -1))
             (call $say (call $get_buffer (i32.const 7) (i32.const 0) (i32.const 100) (i32.const 20) (i32.const 24)))
             (call $say (i32.load (i32.const 20))) (call $say (i32.load (i32.const 24)))
             (call $say (call $map_pairs (i32.const 0) (i32.const 20) (i32.const 24)))
             (call $say (global.get $zero_asked)) (call $say (global.get $allocations))
             i32.const 1)"#,
    );
    assert_eq!(running.proxy.said(), "0 0 0 0 0 0");
}

#[test]
fn order_of_start() {
    let says = |name: &str, n: u32, params: &str, result: &str| {
        format!("(func (export \"{name}\") {params} (call $say (i32.const {n})) {result})")
    };
    let yes = "(result i32)";
    let root = says("proxy_on_context_create", 5, "(param i32 i32)", "")
        + &says("proxy_on_vm_start", 6, "(param i32 i32) (result i32)", "i32.const 1")
        + &says("proxy_on_configure", 7, "(param i32 i32) (result i32)", "i32.const 1");
    let initialize = says("_initialize", 1, "", "");
    let start_ = says("_start", 2, "", "");
    let main = says("main", 3, "(param i32 i32) (result i32)", "i32.const 0");
    let main_void = says("__main_void", 4, yes, "i32.const 0");
    for (exports, expected) in [
        (String::new(), "5 6 7"),
        (initialize.clone(), "1 5 6 7"),
        (start_.clone(), "2 5 6 7"),
        (initialize.clone() + &start_, "1 5 6 7"),
        (initialize.clone() + &main + &start_, "1 3 5 6 7"),
        (initialize.clone() + &main_void, "1 4 5 6 7"),
        (main, "5 6 7"),
    ] {
        let running = start("0.2.1", &(exports + &root));
        assert_eq!(running.proxy.said(), expected);
    }
}

/// No export may be called before `_initialize` has run, so that a host call in it that needs space fails.
#[test]
fn no_allocation_within_initialize() {
    let running = start(
        "0.2.1",
        r#"(data (i32.const 100) "plugin_name")
           (func (export "_initialize")
             (call $say (call $get_property (i32.const 100) (i32.const 11) (i32.const 20) (i32.const 24)))
             (call $say (global.get $allocations)))"#,
    );
    assert_eq!(running.proxy.said(), "10 0");
}

#[test]
fn a_false_start_is_a_failure() {
    let no = |name: &str| format!("(func (export \"{name}\") (param i32 i32) (result i32) i32.const 0)");
    let error = |body: &str| start_with("0.2.0", body, &PluginSpec::new("p")).err().unwrap();
    assert!(matches!(error(&no("proxy_on_vm_start")), StartError::VmStart));
    assert!(matches!(error(&no("proxy_on_configure")), StartError::Configure));
    // Asked before it is configured.
    assert!(matches!(error(&(no("proxy_validate_configuration") + &no("proxy_on_configure"))), StartError::Validate));
    let StartError::Trap(trap) = error(r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) unreachable)"#) else {
        panic!()
    };
    assert_eq!((trap.kind, trap.callback), (TrapKind::Unreachable, "proxy_on_configure"));
}

#[test]
fn exit_code_0_ends_a_start_well() {
    let exits = |code: u32| format!("(func (export \"_start\") (call $exit (i32.const {code})))");
    start("0.2.0", &exits(0));
    let StartError::Trap(trap) = start_with("0.2.0", &exits(2), &PluginSpec::new("p")).err().unwrap() else { panic!() };
    assert_eq!(trap.kind, TrapKind::Exit(2));
}

/// TinyGo and AssemblyScript of old: `_start` and the older name of WASI.
#[test]
fn standard_output_is_logged_by_lines_however_it_is_written() {
    // "a" and "b\n\nc" in two writes, "d" left without an end.
    let body = r#"(data (i32.const 100) "ab\n\ncd")
        (func $write (param $at i32) (param $len i32)
          (i32.store (i32.const 40) (local.get $at)) (i32.store (i32.const 44) (local.get $len))
          (drop (call $fd_write (i32.const 2) (i32.const 40) (i32.const 1) (i32.const 60))))
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
          (call $write (i32.const 100) (i32.const 1)) (call $write (i32.const 101) (i32.const 4)) (call $write (i32.const 105) (i32.const 1))
          i32.const 1)"#;
    let log = start("0.2.1", body).proxy.log.take();
    let wanted: Vec<_> = ["ab", "cd"].iter().map(|l| (LogLevel::Error, l.to_string())).collect();
    assert_eq!(log, wanted);
}

#[test]
fn standard_output_is_logged_in_one_record() {
    let body = r#"(data (i32.const 100) "hello, ") (data (i32.const 110) "world\n")
        (func $write (param $fd i32) (result i32)
          (i32.store (i32.const 40) (i32.const 100)) (i32.store (i32.const 44) (i32.const 7))
          (i32.store (i32.const 48) (i32.const 110)) (i32.store (i32.const 52) (i32.const 6))
          (call $fd_write (local.get $fd) (i32.const 40) (i32.const 2) (i32.const 60)))
        (func (export "_start")
          (call $say (call $write (i32.const 1))) (call $say (i32.sub (i32.load (i32.const 60)) (i32.const 12)))
          (drop (call $write (i32.const 2))) (call $say (call $write (i32.const 3)))
          (call $say (call $fd_write (i32.const 1) (i32.const 40) (i32.const -1) (i32.const 60))))"#;
    let running = start("0.1.0", body);
    let log = running.proxy.log.take();
    assert_eq!(log[0], (LogLevel::Info, "hello, world".into()));
    assert_eq!(log[3], (LogLevel::Error, "hello, world".into()));
    let numbers: Vec<char> = [1, 2, 4, 5].iter().map(|i| log[*i].1.chars().next().unwrap()).collect();
    assert_eq!(numbers, ['0', '1', '8', (b'0' + 28) as char]);
}

#[test]
fn environment_clock_and_random() {
    let spec = PluginSpec { environment: vec![("A".into(), "1".into()), ("BC".into(), "".into())], ..PluginSpec::new("p") };
    let body = r#"(func (export "proxy_on_vm_start") (param i32 i32) (result i32)
        (call $say (call $environ_sizes (i32.const 20) (i32.const 24)))
        (call $say (i32.load (i32.const 20))) (call $say (i32.load (i32.const 24)))
        (drop (call $environ_get (i32.const 40) (i32.const 100)))
        (call $say (i32.sub (i32.load (i32.const 44)) (i32.load (i32.const 40))))
        (drop (call $log (i32.const 2) (i32.load (i32.const 40)) (i32.const 8)))
        (call $say (call $clock (i32.const 0) (i64.const 0) (i32.const 200)))
        (call $say (i64.gt_u (i64.load (i32.const 200)) (i64.const 1700000000000000000)))
        (call $say (call $clock (i32.const 1) (i64.const 0) (i32.const 200)))
        (call $say (i64.ne (i64.load (i32.const 200)) (i64.const 0)))
        (call $say (call $random (i32.const 300) (i32.const 16)))
        (call $say (i64.ne (i64.load (i32.const 300)) (i64.load (i32.const 308))))
        i32.const 1)"#;
    let running = start_with("0.2.1", body, &spec).unwrap();
    assert_eq!(running.proxy.said(), "0 2 8 4 A=1\0BC=\0 0 1 0 1 0 1");
}

/// Names, parameters (i, and I for 64 bits) and the number that each returns.
const WASI: &[(&str, &str, u32)] = &[
    ("fd_fdstat_get", "ii", 8),
    ("clock_res_get", "ii", 58),
    ("fd_read", "iiii", 52),
    ("fd_pread", "iiiIi", 52),
    ("fd_pwrite", "iiiIi", 52),
    ("fd_fdstat_set_flags", "ii", 52),
    ("fd_fdstat_set_rights", "iII", 52),
    ("fd_prestat_get", "ii", 8),
    ("fd_prestat_dir_name", "iii", 52),
    ("fd_seek", "iIii", 0),
    ("fd_close", "i", 0),
    ("fd_advise", "iIIi", 0),
    ("fd_sync", "i", 52),
    ("fd_datasync", "i", 52),
    ("fd_tell", "ii", 52),
    ("fd_allocate", "iII", 52),
    ("fd_renumber", "ii", 52),
    ("fd_filestat_get", "ii", 8),
    ("fd_filestat_set_size", "iI", 52),
    ("fd_filestat_set_times", "iIIi", 52),
    ("fd_readdir", "iiiIi", 20),
    ("sched_yield", "", 0),
    ("path_open", "iiiiiIIii", 44),
    ("path_create_directory", "iii", 58),
    ("path_filestat_get", "iiiii", 58),
    ("path_filestat_set_times", "iiiiIIi", 58),
    ("path_link", "iiiiiii", 58),
    ("path_readlink", "iiiiii", 58),
    ("path_remove_directory", "iii", 58),
    ("path_rename", "iiiiii", 58),
    ("path_symlink", "iiiii", 58),
    ("path_unlink_file", "iii", 58),
    ("sock_accept", "iii", 58),
    ("sock_recv", "iiiiii", 58),
    ("sock_send", "iiiii", 58),
    ("sock_shutdown", "ii", 58),
];

#[test]
fn what_wasi_does_not_have() {
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        let (mut imports, mut calls) = (String::new(), String::new());
        for (name, parameters, wanted) in WASI {
            let types: String = parameters.chars().map(|c| if c == 'I' { " i64" } else { " i32" }).collect();
            imports += &format!("(import \"{module}\" \"{name}\" (func $t_{name} (param{types}) (result i32)))\n");
            // A descriptor, and a clock, that does not exist.
            let values: String = parameters.chars().map(|c| if c == 'I' { "(i64.const 7)" } else { "(i32.const 7)" }).collect();
            calls += &format!("(if (i32.ne (call $t_{name} {values}) (i32.const {wanted})) (then (unreachable)))\n");
        }
        let wat = format!(
            r#"(module {imports} (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 1024))
            (func (export "proxy_on_vm_start") (param i32 i32) (result i32) {calls} (i32.const 1)))"#
        );
        let module = compile_text(&wat).unwrap();
        Instance::start(&module, &PluginSpec::new("p"), std::rc::Rc::new(Proxy::default())).unwrap();
    }
}

#[test]
fn facts_of_a_module() {
    let wasm = guest("0.2.100", r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) i32.const 0)"#);
    let facts = inspect(&wasm).unwrap();
    assert_eq!((facts.abi, facts.allocator, facts.size), (Some(Abi::V0_2_100), Some("malloc"), wasm.len()));
    assert_eq!(facts.memory.unwrap().pages, 2);
    assert!(facts.callbacks.request_headers && !facts.callbacks.request_body);
    assert_eq!(facts.imports[0], inspect::Import { module: "env".into(), name: "proxy_log".into(), known: true });
    assert_eq!(facts.missing, Vec::<String>::new());

    let facts = inspect(&wat::parse_str(r#"(module (import "env" "proxy_fly" (func)))"#).unwrap()).unwrap();
    assert_eq!(facts.missing.len(), 4, "{:?}", facts.missing);
    assert!(facts.missing[1].contains("env.proxy_fly"));
    assert!(inspect(b"\0asm").is_err());
}
