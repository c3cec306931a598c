//! Command one of the README, on free ports.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir, eventually, root},
};
use std::{collections::HashMap, fs, path::Path};

/// The example as it stands, with other ports.
fn quickstart() -> Weir {
    let mut start = Start::new().upstreams(0).arg("--echo").arg("v1=127.0.0.1:$PORT2").arg("--echo").arg("v2=127.0.0.1:$PORT3");
    for name in ["gateway.yaml", "upstreams.yaml", "plugin.yaml", "greeting.wat"] {
        start = start.file(name, text(name));
    }
    start.run()
}

fn text(name: &str) -> String {
    let text = fs::read_to_string(root().join("examples/quickstart").join(name)).unwrap();
    text.replace("8080", "$PORT").replace("9001", "$PORT2").replace("9002", "$PORT3")
}

#[test]
fn serves_what_it_prints_and_follows_its_files() {
    let weir = quickstart();
    eventually("three lines to try", || (weir.lines("curl ").len() == 3).then_some(()));
    assert_eq!(weir.says(&format!("listening on http://0.0.0.0:{}", weir.ports[0])).len(), 1, "{}", weir.printed());

    // A split of 80 to 20: both are seen, and the first more often.
    let mut names: HashMap<String, u32> = HashMap::new();
    for _ in 0..200 {
        let answer = weir.get("any.test", "/");
        assert_eq!(answer.header("x-greeting"), Some("hello"));
        *names.entry(answer.json()["name"].as_str().unwrap().into()).or_default() += 1;
    }
    assert!(names["v1"] > names["v2"] && names["v2"] > 5 && names.len() == 2, "{names:?}");

    let v2 = client::request(weir.address(), "GET", "any.test", "/", &[("x-version", "v2")], b"").unwrap();
    assert_eq!(v2.json()["name"], "v2");
    let moved = weir.get("any.test", "/old/shirts");
    assert_eq!((moved.status, moved.header("location").unwrap().ends_with("/new/shirts")), (302, true), "{moved:?}");

    // Changes of the route, of the plugin's configuration and of its code.
    weir.write("gateway.yaml", &text("gateway.yaml").replace("statusCode: 302", "statusCode: 301"));
    weir.get_until("any.test", "/old/shirts", |a| a.status == 301);
    weir.write("plugin.yaml", &text("plugin.yaml").replace("greeting: hello", "greeting: moin"));
    weir.get_until("any.test", "/", |a| a.header("x-greeting") == Some("moin"));
    weir.write("greeting.wat", &text("greeting.wat").replace("\"x-greeting\"", "\"x-saluting\""));
    weir.get_until("any.test", "/", |a| a.header("x-saluting") == Some("moin"));

    // A mistake is shown with its line, and changes nothing.
    weir.write("gateway.yaml", &text("gateway.yaml").replace("PathPrefix", "Prefix"));
    eventually("the finding", || weir.lines("one of Exact, PathPrefix").pop());
    assert_eq!(weir.get("any.test", "/old/shirts").status, 301);
}

#[test]
fn a_hangup_opens_the_access_log_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (log, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let weir = Start::new()
        .file("gateway.yaml", TO_ECHO)
        .arg("--access-log")
        .arg(log.display().to_string())
        .arg("--access-log-format")
        .arg("%REQ(:PATH)% %RESPONSE_CODE%")
        .run();
    let logged = |path: &Path, line: &str| eventually(line, || fs::read_to_string(path).ok().filter(|t| t.lines().any(|l| l == line)));
    weir.get("any.test", "/before");
    logged(&log, "/before 200");
    fs::rename(&log, &rotated).unwrap();
    weir.signal("HUP");
    eventually("a new file", || log.exists().then_some(()));
    weir.get("any.test", "/after");
    assert_eq!(logged(&log, "/after 200"), "/after 200\n");
    assert_eq!(fs::read_to_string(&rotated).unwrap(), "/before 200\n");
}
