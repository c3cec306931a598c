//! Plugins that cannot run are reported once, with their place, by `weir run`, `/ready` and `weir check`.
use crate::{
    harness::{Start, TO_ECHO, eventually, weir},
    plugin_kit::{guest, istio, marking, on_headers, tried},
};
use std::{fs, process::Output};

const REFUSES: &str = "(func (export \"proxy_on_configure\") (param i32 i32) (result i32)
    (drop (call $log (i32.const 4) [the field rules is missing])) (i32.const 0))";

#[test]
fn a_refusal_is_said_once_with_its_place_and_counted() {
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .file("guest.wat", guest(REFUSES))
        .run();
    let all = |part: &str| weir.lines(part).len();
    let reason = "it said: the field rules is missing";
    weir.says(reason);
    assert_eq!(all("the field rules is missing"), 1, "{}", weir.printed());
    assert_eq!((all("plugin.yaml:2"), all("new version")), (1, 0), "{}", weir.printed());
    assert_eq!(weir.get("h", "/").status, 503);
    let ready = weir.admin("/ready");
    assert!(ready.status == 200 && ready.body.starts_with("LIVE\nerror: ") && ready.body.contains(reason), "{ready:?}");
    assert!(ready.body.contains("503 (failStrategy FAIL_CLOSE)"), "{ready:?}");

    weir.write("guest.wat", &marking("good"));
    weir.get_until("h", "/", |a| a.header("x-good").is_some());
    eventually("the count of none", || weir.lines("configuration ").last().filter(|l| l.ends_with("0 errors")).cloned());
    assert_eq!(weir.admin("/ready").body, "LIVE\n");

    // A refused change: the previous version still serves, and the change does not count as a success.
    weir.write("guest.wat", &guest(REFUSES));
    eventually("the second refusal", || (all(reason) == 2).then_some(()));
    eventually("the count", || weir.lines("configuration ").last().filter(|l| l.ends_with("1 error")).cloned());
    assert_eq!((all("the field rules is missing"), all("plugin.yaml:2")), (2, 2), "{}", weir.printed());
    weir.says("the version before it still serves");
    assert!(weir.get("h", "/").header("x-good").is_some());

    // Its file is removed: reported when the object is read, and not again.
    weir.remove("guest.wat");
    weir.says("cannot read");
    eventually("the third count", || (weir.lines("configuration ").len() == 3).then_some(()));
    assert_eq!((all("guest.wat: there is no such file"), all("No such file")), (1, 0), "{}", weir.printed());
}

#[test]
fn traps_at_a_limit_name_what_raises_it() {
    let spin = guest(&on_headers("request", "(loop $l (br $l))"));
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("plugin.yaml", istio("under-test", "url: file://guest.wat"))
        .file("guest.wat", spin.clone())
        .run();
    assert_eq!(tried(&weir, "under-test"), "active");
    assert_eq!(weir.get("h", "/").status, 503);
    weir.says("the annotation weir.dev/call-deadline raises the limit");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("spin.wat");
    fs::write(&file, spin).unwrap();
    let weir = Start::new()
        .arg("--to")
        .arg("http://127.0.0.1:$ECHO")
        .arg("--listen")
        .arg("127.0.0.1:$PORT")
        .arg("--plugin")
        .arg(file.display().to_string())
        .arg("--plugin-limit")
        .arg("call-deadline=20ms")
        .run();
    assert_eq!(weir.get("h", "/").status, 503);
    let said = weir.says("--plugin-limit call-deadline=VALUE raises the limit");
    assert!(said[0].contains("more than 20ms"), "{said:?}");
}

fn check(files: &[(&str, &str)], args: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    weir().arg("check").arg(".").args(["--cache-dir", "cache"]).args(args).current_dir(folder.path()).output().unwrap()
}

#[test]
fn check_compiles_and_configures_plugins() {
    let refuses = guest(REFUSES);
    for (code, text, says) in [
        ("plugin.wasm", "garbage", "no WebAssembly module"),
        ("main.go", "package main\n", "it begins with \"package main"),
        ("guest.wat", refuses.as_str(), "the field rules is missing"),
        ("guest.wat", "(module\n  (func $f (unknown)))", "guest.wat:2"),
        ("guest.wat", "(module)", "no Proxy-Wasm ABI version"),
    ] {
        let object = istio("under-test", &format!("url: file://{code}"));
        let files = [("plugin.yaml", object.as_str()), (code, text)];
        let output = check(&files, &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says) && said.contains("plugin.yaml:2"), "{code}: {output:?}");
        assert!(!said.contains("<anon>"), "{said}");
        assert!(said.contains("1 error,"), "{said}");
        assert!(check(&files, &["--no-plugins"]).status.success());
    }
    let good = istio("under-test", "url: file://guest.wat");
    let output = check(&[("plugin.yaml", &good), ("guest.wat", &marking("good"))], &[]);
    assert!(output.status.success() && output.stdout.starts_with(b"no findings"), "{output:?}");
}

#[test]
fn values_of_secrets_reach_the_plugin_and_nobody_else() {
    // It answers with its configuration, and logs it.
    let shows = guest(
        "(global $c (mut i32) (i32.const 0)) (global $n (mut i32) (i32.const 0))
         (func (export \"proxy_on_configure\") (param i32) (param $size i32) (result i32)
           (drop (call $get_buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 4) (i32.const 8)))
           (global.set $c (i32.load (i32.const 4))) (global.set $n (i32.load (i32.const 8)))
           (call $say (global.get $c) (global.get $n))
           (i32.const 1))
         (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32)
           (call $answer (i32.const 200) (global.get $c) (global.get $n)) (i32.const 1))",
    );
    let secret = |namespace: &str, name: &str, data: &str| {
        format!("---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: {namespace} }}\nstringData: {{ {data} }}\n")
    };
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .file("guest.wat", shows)
        .file("secrets.yaml", secret("default", "keys", "one: hunter2") + &secret("other", "keys", "'a.b': 'say \"please\"'"))
        .file(
            "plugin.yaml",
            istio("under-test", "url: file://guest.wat\npluginConfig: { keys: ['${secret.keys.one}', 'x ${secret.other/keys.a.b}'] }"),
        )
        // Each worker takes a new version at its own time.
        .workers(1)
        .run();
    let answer = weir.get_until("h", "/", |a| a.status == 200);
    assert_eq!(answer.json()["keys"], serde_json::json!(["hunter2", "x say \"please\""]), "{answer:?}");
    weir.says("[redacted]");
    for (what, text) in [("the log", weir.printed()), ("the dump", weir.admin("/config_dump").body)] {
        assert!(!text.contains("hunter2") && !text.contains("please"), "{what}: {text}");
    }
    // A change of the Secret reconfigures the plugin; without the Secret the previous version keeps running, and that is an error.
    weir.write("secrets.yaml", &(secret("default", "keys", "one: hunter3") + &secret("other", "keys", "'a.b': c")));
    weir.get_until("h", "/", |a| a.json()["keys"] == serde_json::json!(["hunter3", "x c"]));
    weir.write("secrets.yaml", &secret("default", "keys", "two: x"));
    weir.says("the Secret default/keys has no text under the key one");
    weir.says("there is no Secret other/keys");
    assert_eq!(weir.get("h", "/").json()["keys"][0], "hunter3");

    let output =
        check(&[("plugin.yaml", &istio("p", "url: file://p.wat\npluginConfig: { k: '${secret.keys}' }")), ("p.wat", &marking("p"))], &[]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.code() == Some(1) && said.contains("does not name a Secret and a key") && said.contains("plugin.yaml:7"),
        "{said}"
    );
}

/// A start that fails quotes the plugin: its configuration, also where it is cut off or put on one line, shows no value of a Secret.
#[test]
fn a_failed_start_shows_no_values_of_secrets() {
    // To standard error: its configuration, and a key as it stands.
    let write = |fails: &str| {
        guest(&format!(
            "(func $err (param $at i32) (param $size i32)
               (i32.store (i32.const 64) (local.get $at)) (i32.store (i32.const 68) (local.get $size))
               (drop (call $fd_write (i32.const 2) (i32.const 64) (i32.const 1) (i32.const 72))))
             (func (export \"proxy_on_configure\") (param i32) (param $size i32) (result i32)
               (drop (call $get_buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 4) (i32.const 8)))
               (call $err [panic: ])
               (call $err (i32.load (i32.const 4)) (i32.load (i32.const 8)))
               (call $err [ and -----BEGIN KEY-----\\nMIIEvQIBADANBg\\nkqhkiG9w0BAQE\\n-----END KEY-----\\n])
               {fails})"
        ))
    };
    let long = "l0ng".repeat(200);
    let secret = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{ name: keys }}\nstringData:\n  one: hunter2\n  long: {long}\n  pem: |\n    -----BEGIN KEY-----\n    \
         MIIEvQIBADANBg\n    kqhkiG9w0BAQE\n    -----END KEY-----\n"
    );
    let config = "pluginConfig: { texts: ['${secret.keys.one}', '${secret.keys.pem}', '${secret.keys.long}'] }";
    let object = istio("under-test", &format!("url: file://guest.wat\n{config}"));
    let shown = |what: &str, text: &str| {
        assert!(text.contains("panic: {\"texts\":[\"[redacted]"), "{what}: {text}");
        for part in ["hunter2", "MIIEvQ", "kqhk", "l0ngl0ng"] {
            assert!(!text.contains(part), "{what}: {part}: {text}");
        }
    };
    for fails in ["unreachable", "(i32.const 0)"] {
        let code = write(fails);
        let output = check(&[("plugin.yaml", &object), ("secrets.yaml", &secret), ("guest.wat", &code)], &[]);
        shown("weir check", &String::from_utf8_lossy(&output.stdout));
        let weir = Start::new()
            .file("gateway.yaml", TO_ECHO)
            .file("secrets.yaml", &secret)
            .file("plugin.yaml", &object)
            .file("guest.wat", code)
            .run();
        weir.says("panic: ");
        shown("the log", &weir.printed());
        shown("/ready", &weir.admin("/ready").body);
        shown("/plugins", &weir.admin("/plugins").body.replace("\\\"", "\""));
    }
}

#[test]
fn what_a_plugin_adds_to_a_stream_and_logs_is_bounded() {
    // Appends a mebibyte to the body, or adds a long header, or logs, without end.
    let code = "(func $endless (param $what i32)
           (loop $again
             (if (i32.eq (local.get $what) (i32.const 0))
               (then (br_if $again (i32.eqz (call $set_buffer (i32.const 0) (i32.const -1) (i32.const 0) (i32.const 1048576) (i32.const 1048576)))))
               (else (br_if $again (i32.eqz (call $set (i32.const 0) [x-long] (i32.const 200000) (i32.const 60000))))))))
         (func $fill (local $i i32)
           (loop $l (i32.store8 (i32.add (i32.const 200000) (local.get $i)) (i32.const 97))
             (local.set $i (i32.add (local.get $i) (i32.const 1))) (br_if $l (i32.lt_u (local.get $i) (i32.const 60000)))))
         (func (export \"proxy_on_request_headers\") (param i32 i32 i32) (result i32) (local $i i32)
           (if (call $has [x-grow]) (then (call $fill) (call $endless (i32.const 1))))
           (if (call $has [x-log]) (then
             (loop $l (call $say [a line that is logged again and again]) (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $l (i32.lt_u (local.get $i) (i32.const 5000))))))
           (i32.const 0))
         (func (export \"proxy_on_request_body\") (param i32 i32 i32) (result i32)
           (call $endless (i32.const 0)) (i32.const 0))";
    let plugin = "---\napiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: { name: under-test, annotations: { weir.dev/stream-memory-limit: 8Mi, weir.dev/log-limit: 4Ki, weir.dev/call-deadline: 10s } }\nspec: { url: file://guest.wat }\n";
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("plugin.yaml", plugin).file("guest.wat", guest(code)).run();
    let count = |name: &str| weir.stat(&format!("weir_wasm_{name}.default/under-test"));
    let send =
        |headers: &[(&str, &str)], body: &[u8]| crate::client::request(weir.address(), "POST", "h", "/a", headers, body).unwrap().status;
    assert_eq!((send(&[("x-log", "1")], b""), count("log_dropped")), (200, 5000 - 4096 / 128), "{}", weir.printed().len());
    weir.says("more lines of one callback are dropped; the annotation weir.dev/log-limit");
    assert_eq!(weir.lines("a line that is logged again").len(), 4096 / 128);
    send(&[], b"abc");
    let bodies = count("stream_overflows");
    assert!(bodies >= 1, "the body grew without end");
    send(&[("x-grow", "1")], b"");
    assert_eq!(count("stream_overflows"), bodies + 1, "the headers grew without end");
    assert_eq!(count("traps"), 0);
}
