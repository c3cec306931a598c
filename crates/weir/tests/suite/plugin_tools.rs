//! `weir plugin new|build|test|inspect`, as those who write plugins use them.
use crate::{
    harness::{cache_in, weir},
    plugin_kit::{built, guest},
};
use std::{fs, path::Path, process::Output};

fn plugin(args: &[&str], folder: &Path) -> Output {
    weir().arg("plugin").args(args).current_dir(folder).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `weir plugin test`, with the compiled code that all tests share.
fn test(cases: &str, options: &[&str], folder: &Path) -> Output {
    let cache = cache_in(folder);
    plugin(&[&["test", cases, "--cache-dir", cache.to_str().unwrap()], options].concat(), folder)
}

/// Its standard output, for what must succeed.
#[track_caller]
fn good(output: &Output) -> String {
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Its standard error, for what must fail with exit code 1.
#[track_caller]
fn bad(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn new_refuses_what_would_overwrite_or_not_build() {
    let folder = tempfile::tempdir().unwrap();
    good(&plugin(&["new", "a"], folder.path()));
    assert!(bad(&plugin(&["new", "a"], folder.path())).contains("a exists already"));
    assert!(bad(&plugin(&["new", "A b"], folder.path())).contains("lower case letters"));
    assert!(bad(&plugin(&["build"], folder.path())).contains("weir plugin new"));
}

#[test]
fn test_builds_what_is_missing_or_older_than_its_sources() {
    let folder = tempfile::tempdir().unwrap();
    good(&plugin(&["new", "a"], folder.path()));
    let run = || {
        let output = test("a/cases.yaml", &[], folder.path());
        good(&output);
        text(&output.stderr)
    };
    assert!(run().contains("a/plugin.wasm is missing: building it"));
    assert!(!run().contains("building it"));
    let source = folder.path().join("a/main.go");
    let code = fs::read_to_string(&source).unwrap();
    fs::write(&source, code + "// An edit.\n").unwrap();
    assert!(run().contains("a/plugin.wasm is older than a/main.go: building it"));
    assert!(!run().contains("building it"));
}

#[test]
fn build_says_which_toolchain_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    good(&plugin(&["new", "a"], folder.path()));
    let output = weir().args(["plugin", "build", "a"]).env("PATH", "/nonexistent").current_dir(folder.path()).output().unwrap();
    assert!(bad(&output).contains("https://go.dev/dl"), "{output:?}");
}

#[test]
fn wrong_cases_are_shown_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cases.yaml"), "cases:\n- name: a\n  request: { path: x, metod: GET }\n  expect: { status: abc }\n")
        .unwrap();
    let said = bad(&plugin(&["test"], folder.path()));
    for part in ["cases.yaml:3", "does not begin with /", "did you mean method?", "cases.yaml:4", "expected a whole number", "has 3 errors"]
    {
        assert!(said.contains(part), "no {part} in {said}");
    }
}

#[test]
fn inspect_says_what_a_module_is_and_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let quickstart = crate::harness::root().join("examples/quickstart/greeting.wat");
    let said = good(&plugin(&["inspect", quickstart.to_str().unwrap()], folder.path()));
    for part in ["abi        0.2.1", "allocator  proxy_on_memory_allocate", "on_response_headers", "get_buffer_bytes", "It would run here."]
    {
        assert!(said.contains(part), "no {part} in {said}");
    }
    fs::write(
        folder.path().join("bad.wat"),
        "(module (import \"env\" \"proxy_nonsense\" (func)) (func (export \"proxy_abi_version_0_2_1\")))",
    )
    .unwrap();
    let output = plugin(&["inspect", "bad.wat", "-o", "json"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = facts["missing"].to_string();
    assert!(missing.contains("proxy_nonsense") && missing.contains("memory"), "{facts}");
    fs::write(folder.path().join("text.wasm"), "hello").unwrap();
    assert!(bad(&plugin(&["inspect", "text.wasm"], folder.path())).contains("text.wasm: not a WebAssembly module"));
}

#[test]
fn what_new_makes_builds_and_passes_its_own_cases() {
    let folder = tempfile::tempdir().unwrap();
    for (lang, abi) in [("go", "0.2.100"), ("rust", "0.2.1")] {
        good(&plugin(&["new", lang, "--lang", lang], folder.path()));
        good(&plugin(&["build", lang], folder.path()));
        let module = format!("{lang}/plugin.wasm");
        let facts: serde_json::Value = serde_json::from_str(&good(&plugin(&["inspect", &module, "-o", "json"], folder.path()))).unwrap();
        assert_eq!(facts["abi"], abi, "{facts}");
        let said = good(&test(&format!("{lang}/cases.yaml"), &[], folder.path()));
        assert!(said.contains("3 passed, 0 failed"), "{said}");
    }
}

#[test]
fn examples_pass_their_cases() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["blacklist-redis-go", "token-auth-go", "key-auth-go", "json-rewrite-rust", "sse-rewrite-go"] {
        let example = crate::harness::root().join("examples/plugins").join(name);
        built(name);
        let said = good(&test(example.join("cases.yaml").to_str().unwrap(), &[], folder.path()));
        assert!(said.ends_with(" 0 failed\n"), "{said}");
    }
}

#[test]
fn test_shows_differences_and_tells_programs() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(crate::harness::root().join("examples/quickstart/greeting.wat"), folder.path().join("greeting.wat")).unwrap();
    let cases = "\
plugin: greeting.wat
config: { greeting: hello }
upstream: { status: 201, headers: { x-upstream: a }, body: { ok: true } }
cases:
- name: right
  request: { method: PUT, path: /a?b=c, body: { n: 1 } }
  expect:
    status: 201
    headers: { x-greeting: hello, x-upstream: a, x-none: null }
    body: { ok: true }
    upstream: { method: PUT, path: \"~^/a\", body: { n: 1 }, host: example.com }
- name: wrong
  request: { path: / }
  expect: { status: 404, headers: { x-greeting: hi }, upstream: false }
";
    fs::write(folder.path().join("cases.yaml"), cases).unwrap();
    let output = test("cases.yaml", &[], folder.path());
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in
        ["ok     right", "FAILED wrong", "expected 404", "got      201", "headers.x-greeting", "expected no request", "1 passed, 1 failed"]
    {
        assert!(said.contains(part), "no {part} in {said}");
    }
    let output = test("cases.yaml", &["-o", "json"], folder.path());
    let reports: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&reports[0]["passed"], &reports[1]["passed"]), (&true.into(), &false.into()), "{reports}");
    assert_eq!(reports[1]["differences"][0], serde_json::json!({"field": "status", "expected": "404", "actual": "201"}));
}

#[test]
fn a_plugin_that_does_not_start_fails_its_cases() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("plugin.wasm"), wat::parse_str("(module)").unwrap()).unwrap();
    fs::write(folder.path().join("cases.yaml"), "cases: [{ name: a, request: {}, expect: { status: 200 } }]\n").unwrap();
    let output = test("cases.yaml", &[], folder.path());
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("expected to start") && said.contains("proxy_abi_version"), "{said}");
}

/// Each is a mistake that authors make; the message must say what to do.
#[test]
fn mistakes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let warns = "(func (export \"proxy_on_configure\") (param i32 i32) (result i32) (drop (call $log (i32.const 3) [greeting is missing])) (i32.const 0))";
    let panics =
        "(func (export \"proxy_on_context_create\") (param i32 i32) (call $print [panic: no context\\n\\ngoroutine 1]) unreachable)
        (func $print (param i32 i32)
          (i32.store (i32.const 96) (local.get 0)) (i32.store (i32.const 100) (local.get 1))
          (drop (call $fd_write (i32.const 2) (i32.const 96) (i32.const 1) (i32.const 104))))";
    // All that was expected comes true, and the plugin dies of the end.
    let traps = "(func (export \"proxy_on_log\") (param i32) unreachable)";
    let cases = |name: &str| format!("plugin: {name}.wat\ncases: [{{ name: a, request: {{ path: / }}, expect: {{ status: 200 }} }}]\n");
    for (name, code, says) in [
        ("warns", guest(warns), "it said: greeting is missing"),
        ("panics", guest(panics), "it said: panic: no context (at"),
        ("traps", guest(traps), "expected to live"),
    ] {
        write(&format!("{name}.wat"), code.as_bytes());
        write("cases.yaml", cases(name).as_bytes());
        let output = test("cases.yaml", &[], folder.path());
        let said = text(&output.stdout);
        assert!(output.status.code() == Some(1) && said.contains(says), "{name}: {said}");
        assert_eq!(said.contains("set up in init()"), name == "panics", "{said}");
        // What the reason already contains is not repeated.
        assert_eq!(said.contains(&format!("][wasm] {name}-1: ")), name != "warns", "{said}");
        assert!(!said.contains("goroutine 1 ("), "{said}");
    }
    write("good.wat", guest("").as_bytes());
    write("cases.yaml", cases("good").as_bytes());
    let said = bad(&test("cases.yaml", &["--filter", "b"], folder.path()));
    assert!(said.contains("no case's name contains `b`") && said.contains("  a"), "{said}");
    write("cases.yaml", cases("good").replace("status: 200", "status: 200, upstram: false").as_bytes());
    let said = bad(&test("cases.yaml", &[], folder.path()));
    assert!(said.contains("did you mean upstream?") && said.contains("cases.yaml has 1 error\n"), "{said}");
    assert!(bad(&test("none.yaml", &[], folder.path())).contains("none.yaml is not there"));

    let module = wat::parse_str(guest("")).unwrap();
    write("built/plugin.wasm", &module);
    write("packed.wasm", &module);
    assert!(std::process::Command::new("gzip").arg(folder.path().join("packed.wasm")).status().unwrap().success());
    for good_one in ["built", "packed.wasm.gz"] {
        assert!(good(&plugin(&["inspect", good_one], folder.path())).contains("It would run here."), "{good_one}");
    }
    write("component.wasm", b"\0asm\x0d\0\x01\0");
    for (wrong, says) in [("component.wasm", "it is a component"), (".", "plugin.wasm: No such file"), ("nothing.wasm", "No such file")] {
        let said = bad(&plugin(&["inspect", wrong], folder.path()));
        assert!(said.contains(says), "{wrong}: {said}");
    }
    // Go builds it, and it is no plugin.
    write("program/go.mod", b"module program\n\ngo 1.24\n");
    write("program/main.go", b"package main\n\nfunc main() {}\n");
    let said = bad(&plugin(&["build", "program"], folder.path()));
    assert!(said.contains("no gateway can run it") && said.contains("is this a proxy-wasm plugin?"), "{said}");
}
