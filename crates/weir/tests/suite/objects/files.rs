//! Where documents stand does not matter; files and folders come, go, and are edited in every way that programs edit them.
use crate::{
    client,
    harness::{Start, TO_ECHO, Weir, eventually},
};
use serde_json::Value;
use std::{fs, os::unix::fs::symlink, path::Path};

/// A route of `HOST.test` that answers with a redirect to `TO.test`.
fn redirect(host: &str, to: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {host} }}\nspec:\n  parentRefs: [{{ name: gateway }}]\n  hostnames: [{host}.test]\n  rules: [{{ filters: [{{ type: RequestRedirect, requestRedirect: {{ hostname: {to}.test, port: 80 }} }}] }}]\n"
    )
}

/// Where the route of a host leads now; empty where it has none.
fn leads(weir: &Weir, host: &str) -> String {
    let answer = client::get(weir.address(), &format!("{host}.test"), "/").unwrap();
    let location = answer.header("location").unwrap_or_default();
    location.strip_prefix("http://").and_then(|l| l.strip_suffix(".test/")).unwrap_or_default().to_string()
}

#[track_caller]
fn becomes(weir: &Weir, host: &str, to: &str) {
    eventually(&format!("{host} to {to}"), || (leads(weir, host) == to).then_some(()));
}

/// Without what names a place, a time or a port of this run.
fn comparable(weir: &Weir) -> Value {
    fn strip(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                let gone = ["metadata", "version_info", "last_updated"];
                Value::Object(map.into_iter().filter(|(k, _)| !gone.contains(&k.as_str())).map(|(k, v)| (k, strip(v))).collect())
            }
            Value::Array(items) => Value::Array(items.into_iter().map(strip).collect()),
            other => other,
        }
    }
    let mut dump = weir.admin("/config_dump?include_eds").body;
    for (i, port) in weir.ports.iter().enumerate() {
        dump = dump.replace(&port.to_string(), &format!("1000{i}"));
    }
    strip(serde_json::from_str(&dump).unwrap())
}

#[test]
fn the_same_objects_make_the_same_configuration_wherever_they_stand() {
    let echo = crate::harness::echo_server("shared");
    let text = format!("{TO_ECHO}---\n{}---\n{}", redirect("one", "a"), redirect("two", "b"));
    let documents: Vec<&str> = text.split("---\n").collect();
    let start = || Start::new().upstreams(0).word("ECHO", echo.address().port());
    let together = comparable(&start().file("all.yaml", text.clone()).run());
    assert!(together.to_string().contains("one.test"), "{together}");

    let names: Vec<String> = (0..documents.len()).map(|i| format!("{}-{i}.{}", 9 - i, ["yaml", "yml"][i % 2])).collect();
    let apart = documents.iter().zip(&names).fold(start(), |s, (d, name)| s.file(name, *d)).run();
    assert_eq!(comparable(&apart), together, "a file each, in another order");

    let list = documents.iter().map(|d| format!("- {}", d.trim_end().replace('\n', "\n  "))).collect::<Vec<_>>().join("\n");
    let listed = start().file("list.yaml", format!("apiVersion: v1\nkind: List\nitems:\n{list}\n")).run();
    assert_eq!(comparable(&listed), together, "a List");

    // The same as JSON, by way of the reader that knows both.
    fn json(node: &weir_config::node::Node) -> Value {
        use weir_config::node::Value as Yaml;
        match &node.value {
            Yaml::Null => Value::Null,
            Yaml::Bool(b) => (*b).into(),
            Yaml::Int(n) => (*n).into(),
            Yaml::Float(f) => (*f).into(),
            Yaml::String(s) => s.to_string().into(),
            Yaml::List(items) => items.iter().map(json).collect(),
            Yaml::Map(entries) => Value::Object(entries.iter().map(|(k, v)| (k.text.to_string(), json(v))).collect()),
        }
    }
    // Words with a dollar sign stay texts in JSON, and numbers once they are replaced.
    let as_json = |document: &str| {
        let source = weir_config::source::Source::new("x", document, 1);
        let nodes = weir_config::node::parse(&std::sync::Arc::new(source)).unwrap();
        serde_json::to_string_pretty(&json(&nodes[0])).unwrap().replace("\"$PORT\"", "$PORT").replace("\"$ECHO\"", "$ECHO")
    };
    let names: Vec<String> = (0..documents.len()).map(|i| format!("{i}.json")).collect();
    let jsons = documents.iter().zip(&names).fold(start(), |s, (d, name)| s.file(name, as_json(d))).run();
    assert_eq!(comparable(&jsons), together, "JSON");
}

#[test]
fn files_are_edited_as_editors_do() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("one.yaml", redirect("one", "a")).run();
    let path = |name: &str| weir.path(name);
    becomes(&weir, "one", "a");

    // Vim: the old file becomes a backup, the new one is written in its place, a swap file lies beside it.
    fs::write(path(".one.yaml.swp"), "b0VIM 9.0").unwrap();
    fs::rename(path("one.yaml"), path("one.yaml~")).unwrap();
    fs::write(path("4913"), "").unwrap();
    fs::remove_file(path("4913")).unwrap();
    weir.write("one.yaml", &redirect("one", "b"));
    fs::remove_file(path("one.yaml~")).unwrap();
    fs::remove_file(path(".one.yaml.swp")).unwrap();
    becomes(&weir, "one", "b");

    // Emacs: a lock that is a link to nowhere, an automatic copy, the file rewritten.
    symlink("user@host.1:2", path(".#one.yaml")).unwrap();
    fs::write(path("#one.yaml#"), redirect("one", "nothing")).unwrap();
    weir.write("one.yaml", &redirect("one", "c"));
    becomes(&weir, "one", "c");
    fs::remove_file(path(".#one.yaml")).unwrap();
    fs::remove_file(path("#one.yaml#")).unwrap();

    // Others: a temporary file in the folder, or beside it, renamed over the old one.
    fs::write(path("one.yaml.tmp"), redirect("one", "d")).unwrap();
    fs::rename(path("one.yaml.tmp"), path("one.yaml")).unwrap();
    becomes(&weir, "one", "d");
    let outside = path("one.yaml").parent().unwrap().parent().unwrap().join("outside.yaml");
    fs::write(&outside, redirect("one", "e")).unwrap();
    fs::rename(&outside, path("one.yaml")).unwrap();
    becomes(&weir, "one", "e");

    // In place, in two writes with a rest in between that is no YAML.
    let whole = redirect("one", "f");
    let (first, second) = whole.split_at(whole.len() - 40);
    let mut file = fs::File::create(path("one.yaml")).unwrap();
    std::io::Write::write_all(&mut file, first.as_bytes()).unwrap();
    assert_eq!(leads(&weir, "one"), "e", "half a file is served");
    std::io::Write::write_all(&mut file, second.as_bytes()).unwrap();
    drop(file);
    becomes(&weir, "one", "f");

    // Emptied, and written again.
    weir.write("one.yaml", "");
    becomes(&weir, "one", "");
    weir.write("one.yaml", &redirect("one", "g"));
    becomes(&weir, "one", "g");
    assert_eq!(leads(&weir, "nothing"), "");
    let said = weir.printed();
    assert!(!said.lines().any(|l| l.starts_with("error")), "{said}");
}

#[test]
fn files_and_folders_are_renamed_and_removed() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).file("one.yaml", redirect("one", "a")).run();
    let path = |name: &str| weir.path(name);
    // A file under another name holds what it held; the object is there all the time.
    fs::rename(path("one.yaml"), path("uno.yml")).unwrap();
    weir.write("two.yaml", &redirect("two", "b"));
    becomes(&weir, "two", "b");
    assert_eq!(leads(&weir, "one"), "a");
    // Under a name that is none of ours it is gone.
    fs::rename(path("uno.yml"), path("uno.txt")).unwrap();
    becomes(&weir, "one", "");

    fs::create_dir_all(path("deep/er")).unwrap();
    weir.write("deep/er/three.yaml", &redirect("three", "c"));
    becomes(&weir, "three", "c");
    fs::rename(path("deep"), path("moved")).unwrap();
    weir.write("moved/er/three.yaml", &redirect("three", "d"));
    becomes(&weir, "three", "d");
    // A folder that comes whole.
    let staged = path("gateway.yaml").parent().unwrap().parent().unwrap().join("staged");
    fs::create_dir(&staged).unwrap();
    fs::write(staged.join("four.yaml"), redirect("four", "e")).unwrap();
    fs::rename(&staged, path("whole")).unwrap();
    becomes(&weir, "four", "e");
    fs::remove_dir_all(path("moved")).unwrap();
    fs::rename(path("whole"), staged).unwrap();
    becomes(&weir, "three", "");
    becomes(&weir, "four", "");
    assert_eq!(leads(&weir, "two"), "b");
    // The same object twice: the second takes over when the first goes.
    weir.write("b.yaml", &redirect("two", "z"));
    eventually("the last word on the object", || (leads(&weir, "two") == "z").then_some(()));
    weir.remove("b.yaml");
    becomes(&weir, "two", "b");
}

#[test]
fn mounted_config_maps_change_all_at_once() {
    let weir = Start::new().file("gateway.yaml", TO_ECHO).run();
    let mount = weir.path("mount");
    let version = |name: &str, to: &str| {
        let folder = mount.join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("routes.yaml"), format!("{}---\n{}", redirect("one", to), redirect("two", to))).unwrap();
    };
    let point = |name: &str| {
        symlink(name, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    // As the kubelet writes a volume: a folder with a time for a name, a link to it, links through that link.
    version("..2026_01_01", "a");
    point("..2026_01_01");
    symlink("..data/routes.yaml", mount.join("routes.yaml")).unwrap();
    becomes(&weir, "one", "a");
    for to in ["b", "c"] {
        let name = format!("..2026_01_0{to}");
        version(&name, to);
        point(&name);
        becomes(&weir, "one", to);
        becomes(&weir, "two", to);
    }
    fs::remove_dir_all(Path::new(&mount).join("..2026_01_01")).unwrap();
    assert_eq!(leads(&weir, "one"), "c");
}
