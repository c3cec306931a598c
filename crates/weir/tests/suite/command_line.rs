//! What the command line accepts, and its messages for the rest.
use crate::{
    client,
    harness::{Start, TO_ECHO, cache_in, echo_server, eventually, free_port, weir},
    yaml::ToEcho,
};
use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::{Output, Stdio},
};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn bad_command_lines_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, empty) = (file("good.yaml", "kind: Namespace\napiVersion: v1\nmetadata: { name: a }\n"), file("empty.pem", ""));
    let to = ["run", "--to", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let with_to = |more: &[&'static str]| to.iter().chain(more).copied().collect::<Vec<_>>();
    for (args, expected, code) in [
        (vec!["run"], "nothing to run: give files (weir run PATH), or a URL with --to URL", 1),
        (vec!["run", "-f", "nowhere"], "no such file or folder: nowhere", 1),
        (vec!["run", "nowhere", "-f", "never"], "no such file or folder: nowhere, never", 1),
        (vec!["run", &good, "--to", "http://x"], "give files or a URL, not both", 1),
        (vec!["run", "--to", "ftp://x"], "the scheme must be http or https", 2),
        (vec!["run", "--to", "http://x", "--plugin", "no.wasm"], "no such file or folder: no.wasm", 1),
        (vec!["run", "-f", &good, "--listen", ":8080"], "--listen goes with --to", 1),
        ([&to[..], &["--http-port", "80"]].concat(), "'--to <URL>' cannot be used with '--http-port <PORT>'", 2),
        ([&to[..], &["--bind", "127.0.0.1"]].concat(), "'--to <URL>' cannot be used with '--bind <IP>'", 2),
        (vec!["run", &good, "--plugin", &good], "--plugin goes with --to", 1),
        (vec!["run", &good, "--listen", "8080"], "write localhost:8080, or :8080", 2),
        (vec!["run", &good, "--admin", "host.test:80"], "`host.test` is not an IP address", 2),
        (vec!["run", &good, "--log-level", "loud"], "one of trace, debug, info, warning, error, critical, off", 2),
        (vec!["run", &good, "--access-log", "/nosuch/x.log"], "cannot open access log /nosuch/x.log: No such file or directory", 1),
        (with_to(&["--access-log-format", "%NONSENSE%"]), "--access-log-format: unknown command operator `%NONSENSE%`", 1),
        (with_to(&["--access-log-format", "jsonn"]), "write text, json, or a format", 1),
        (with_to(&["--plugin-config", "{"]), "the following required arguments were not provided", 2),
        (vec!["check"], "nothing to check: give files or folders", 1),
        (vec!["check", "nowhere"], "no such file or folder: nowhere", 1),
        (vec!["echo", "--listen", "127.0.0.1:0", "--tls-cert", "no.pem", "--tls-key", "no.key"], "cannot read no.pem: No such file", 1),
        (vec!["echo", "--listen", "127.0.0.1:0", "--tls-cert", &empty, "--tls-key", "no.key"], "empty.pem: no certificate in PEM", 1),
        (vec!["plugin", "inspect", "no.wasm"], "no.wasm: No such file", 1),
        (vec!["gateway", "--namespace", "Not_One"], "a name of a namespace has at most 63 lower case letters", 2),
        (vec!["gateway", "--kubeconfig", &empty], "has no contexts: it must have contexts, clusters and users", 1),
        (vec!["migrate", "--from", "ingress-nginx"], "nothing to migrate: give files, folders, - for standard input, or --from-cluster", 1),
        (vec!["install", "--dry-run", "--image", "weir image"], "write it as REGISTRY/NAME:TAG", 2),
        (vec!["completions", "tcsh"], "possible values: bash", 2),
        (vec!["runn"], "unrecognized subcommand 'runn'", 2),
    ] {
        let output = weir().args(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected) && output.status.code() == Some(code), "{args:?}: {:?} {said}", output.status);
        assert!(code == 2 || said.trim_end().lines().count() == 1, "{args:?}: {said}");
        assert!(!said.contains("Some(") && !said.contains("File("), "{said}");
    }
}

#[test]
fn the_version_and_completions_are_printed() {
    for args in [&["version"][..], &["-V"], &["--version"]] {
        let out = weir().args(args).output().unwrap();
        assert_eq!(said(&out), format!("weir {}\n", env!("CARGO_PKG_VERSION")), "{args:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&weir().args(["completions", shell]).output().unwrap());
        assert!(script.contains("access-log-format") && script.contains("inspect"), "{shell}: {script}");
        if shell == "bash" {
            let mut bash = std::process::Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success());
        }
    }
    let help = said(&weir().arg("--help").output().unwrap());
    assert!(help.contains("Examples:") && help.contains("weir run conf.d/"), "{help}");
}

#[test]
fn paths_are_given_with_and_without_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, "apiVersion: v1\nkind: Service\nmetadata: { name: a }\nspec: { ports: [{ port: nine }] }\n").unwrap();
    for args in [&["check"][..], &["check", "-f"], &["check", "--file"]] {
        let out = weir().args(args).arg(&path).output().unwrap();
        assert!(out.status.code() == Some(1) && said(&out).contains("1 error, 0 warnings"), "{args:?}: {}", said(&out));
    }
    // A folder without a flag, served on a port of all addresses.
    let running = Start::new().file("gateway.yaml", TO_ECHO).run();
    let port = free_port();
    let gateway = fs::read_to_string(running.path("gateway.yaml")).unwrap().replace(&running.ports[0].to_string(), &port.to_string());
    let served = Start::new().arg(folder.path().join("conf").to_str().unwrap()).arg("--log-level").arg("error");
    fs::create_dir(folder.path().join("conf")).unwrap();
    fs::write(folder.path().join("conf/gateway.yaml"), gateway).unwrap();
    let served = served.run();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("an answer", || client::get(to, "h", "/").ok().filter(|a| a.status == 200));
    let levels = client::request(served.admin, "POST", "localhost", "/logging", &[], b"").unwrap().body;
    assert!(levels.contains("wasm: error") && !levels.contains("info"), "{levels}");
}

#[test]
fn standard_input_is_read_whole() {
    let service =
        |i: usize| format!("---\napiVersion: v1\nkind: Service\nmetadata: {{ name: s{i} }}\nspec: {{ ports: [{{ port: 80 }}] }}\n");
    let good: String = (0..2_000).map(service).collect();
    let bad = good.clone() + "---\napiVersion: v1\nkind: Service\nmetadata: { name: last }\nspec: { ports: [{ port: nine }] }\n";
    // What only translation can find has its place and its text too.
    let late = good.clone()
        + "---\n{ apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: { name: i }, spec: { defaultBackend: { service: { name: nobody, port: { number: 80 } } } } }\n";
    for path in ["-", "/dev/stdin"] {
        let table = [
            (&good, 0, "no findings in -"),
            (&bad, 1, "<stdin>:10005:"),
            (&late, 0, "<stdin>:10002:"),
            (&late, 0, "10002 | { apiVersion: networking"),
        ];
        for (text, code, expected) in table {
            let mut check = weir().args(["check", path]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut input = check.stdin.take().unwrap();
            // In pieces, as another program writes.
            let (half, rest) = text.as_bytes().split_at(text.len() / 2);
            input.write_all(half).unwrap();
            input.flush().unwrap();
            input.write_all(rest).unwrap();
            drop(input);
            let out = check.wait_with_output().unwrap();
            assert!(out.status.code() == Some(code) && said(&out).contains(expected), "{path}: {}", said(&out));
        }
    }
}

#[test]
fn a_gateway_runs_from_standard_input() {
    let upstream = echo_server("echo");
    let port = free_port();
    let text = ToEcho::new().upstream(upstream.address().port()).port(port).text();
    let folder = tempfile::tempdir().unwrap();
    let mut run = weir();
    run.args(["run", "-", "--workers", "1", "--admin", "127.0.0.1:0", "--cache-dir"]).arg(cache_in(folder.path()));
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("an answer", || client::get(to, "h", "/").ok().filter(|a| a.status == 200));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn short_addresses_are_listened_on() {
    let port = free_port();
    let _weir = Start::new().arg("--to").arg("http://127.0.0.1:$ECHO").arg("--listen").arg(format!(":{port}")).run();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("an answer", || client::get(to, "h", "/").ok().filter(|a| a.status == 200));
}

#[test]
fn a_cache_that_cannot_be_used_is_only_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    // Also root cannot make a folder in a file.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let weir = Start::new().file("gateway.yaml", TO_ECHO).cache(&file.join("cache")).run();
    assert_eq!(weir.get("h", "/").status, 200);
    let said = weir.says("cannot use the cache folder");
    assert!(said.len() == 1 && said[0].contains("plugins are compiled at each start"), "{said:?}");
}
