#![allow(clippy::unwrap_used)]
use super::*;
use crate::{diagnostic::Diagnostic, node, source::Source};
use std::sync::Arc;

#[test]
fn names_say_what_is_secret() {
    let secret = "password Password passwd db_passwd passphrase secret clientSecret client-secret secrets token tokens apiToken apiTokens \
                  access_token authtoken X-Auth-Token apiKey apiKeys api_key APIKey apikey x-api-key key keys KEY credential credentials \
                  privateKey private_key private authorization Authorization Proxy-Authorization cookie Set-Cookie awsSecretKey \
                  AWS_SECRET_ACCESS_KEY X-Amz-Signature X-Amz-Credential X-Amz-Security-Token sig jwt redisPassword OPENAI_API_KEY key1 \
                  minimaxApiToken tls.key";
    let open = "imagePullSecret verificationKey name secretName secret_name credentialName tokenUrl token_url secretRef keyPrefix cache_key_prefix passwordFile path host \
                url port tokenize monkey keyboard keepalive timeout user username bypass value header key_header token_per_minute \
                private_ip compass nginx.ingress.kubernetes.io/auth-secret";
    for name in secret.split_whitespace() {
        assert!(is_secret_name(name), "{name}: {:?}", words(name));
    }
    for name in secret.split_whitespace().chain(["kind: Secret", "env: {}", "\"p\\u0061ssword\": x", "pa\u{17f}sword: x"]) {
        assert!(may_name_secrets(name), "{name}");
    }
    assert!(!may_name_secrets("kind: HTTPRoute\nspec: { hostnames: [shop.test], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }\n"));
    for name in open.split_whitespace() {
        assert!(!is_secret_name(name), "{name}: {:?}", words(name));
    }
}

#[test]
fn texts_lose_credentials_and_nothing_else() {
    for (given, shown) in [
        ("https://me:S3@h/p.wasm: 404", "https://[redacted]@h/p.wasm: 404"),
        ("redis://:S3@10.0.0.1:6379/0", "redis://[redacted]@10.0.0.1:6379/0"),
        ("https://S3:x@y@h/", "https://[redacted]@h/"),
        ("get http://h/p?a=1&token=S3&b=2#access_token=S3.", "get http://h/p?a=1&token=[redacted]&b=2#access_token=[redacted]"),
        ("https://h/p?X-Amz-Signature=S3&X-Amz-Date=1", "https://h/p?X-Amz-Signature=[redacted]&X-Amz-Date=1"),
        ("sent Authorization: Bearer S3.abc-1 to h", "sent Authorization: Bearer [redacted] to h"),
        ("Basic dXNlcjpTMw==", "Basic [redacted]"),
        (r#"config {"a":"b","password": "S3\"x","n":1}"#, r#"config {"a":"b","password": "[redacted]","n":1}"#),
        (r#"{"apiTokens":["S3","S3"],"apiKey":123}"#, r#"{"apiTokens":[redacted],"apiKey":[redacted]}"#),
        (r#"got "{\"password\":\"S3\",\"a\":\"b\"}""#, r#"got "{\"password\":\"[redacted]\",\"a\":\"b\"}""#),
        ("login user=me password=S3, retry=1", "login user=me password=[redacted], retry=1"),
    ] {
        assert_eq!(text(given), shown, "{given}");
        // What is redacted stays so.
        assert_eq!(text(&text(given)), shown, "{given}");
    }
    for plain in [
        "",
        "Basic authentication failed, bearer token missing",
        "no header `x-api-key` in the request",
        "me@example.com: http://h:80/p?page=2&size=3",
        "http://h/a?name=x@y",
        "invalid token: expected `}` at line 3",
        "key-auth: 3 consumers, 17.5 ms",
        "é=ü: \"ß\": \"ç\"",
    ] {
        assert_eq!(text(plain), plain);
    }
}

#[test]
fn configurations_lose_what_their_keys_name() {
    for (given, shown) in [
        ("{\"password\":\"S3\",\"on\":true}", "{\"password\":\"[redacted]\",\"on\":true}"),
        ("{\"apiTokens\":[\"S3\",\"S3\"],\"n\":2}", "{\"apiTokens\":[\"[redacted]\",\"[redacted]\"],\"n\":2}"),
        (
            "{\"credentials\":{\"user\":\"S3\",\"deep\":[{\"x\":\"S3\"}],\"n\":1234}}",
            "{\"credentials\":{\"user\":\"[redacted]\",\"deep\":[{\"x\":\"[redacted]\"}],\"n\":\"[redacted]\"}}",
        ),
        ("{\"consumers\":[{\"name\":\"me\",\"credential\":\"S3\"}]}", "{\"consumers\":[{\"name\":\"me\",\"credential\":\"[redacted]\"}]}"),
        (
            "{\"headers\":[{\"key\":\"Authorization\",\"value\":\"S3\",\"newValue\":\"S3\"},{\"key\":\"x\",\"value\":\"y\"}]}",
            "{\"headers\":[{\"key\":\"Authorization\",\"value\":\"[redacted]\",\"newValue\":\"[redacted]\"},{\"key\":\"x\",\"value\":\"y\"}]}",
        ),
        ("{\"url\":\"http://u:S3@h/?token=S3\"}", "{\"url\":\"http://[redacted]@h/?token=[redacted]\"}"),
        ("password: S3 with blanks\nhost: h\n", "password: \"[redacted]\"\nhost: h\n"),
        ("a: { password: 'S3', b: [1] } # c\n", "a: { password: '[redacted]', b: [1] } # c\n"),
        ("key: |\n  S3\n  S3\nhost: h\n", "key: |\n  \"[redacted]\"\nhost: h\n"),
        ("a:\n  key: >-\n    S3\n\n    S3\n  host: h\n", "a:\n  key: >-\n    \"[redacted]\"\n  host: h\n"),
        ("tokens:\n- S3\n- S3\nhost: h\n", "tokens:\n- \"[redacted]\"\n- \"[redacted]\"\nhost: h\n"),
        ("ü: é\npassword: S3\n", "ü: é\npassword: \"[redacted]\"\n"),
        ("env: [{ name: MODE, value: S3 }]\nvalue: shown\n", "env: [{ name: MODE, value: \"[redacted]\" }]\nvalue: shown\n"),
        (
            "kind: Secret\ndata: { a: S3 }\nstringData:\n  b: S3\ntype: Opaque\n",
            "kind: Secret\ndata: { a: \"[redacted]\" }\nstringData:\n  b: \"[redacted]\"\ntype: Opaque\n",
        ),
        (
            "kind: ConfigMap\ndata:\n  x: |\n    password: S3\n    a: 1\n",
            "kind: ConfigMap\ndata:\n  x: |\n    password: [redacted]\n    a: 1\n",
        ),
        (
            "matchExpressions: [{ key: app, operator: In, values: [shop] }]\n",
            "matchExpressions: [{ key: app, operator: In, values: [shop] }]\n",
        ),
        ("tls: [{ secretName: shop }]\n", "tls: [{ secretName: shop }]\n"),
        (
            "consistentHash: { httpCookie: { name: c, ttl: 5 } }\ncookie: S3\n",
            "consistentHash: { httpCookie: { name: c, ttl: 5 } }\ncookie: \"[redacted]\"\n",
        ),
        ("tls: { privateKey: /etc/certs/tls.key }\n", "tls: { privateKey: /etc/certs/tls.key }\n"),
        // Not YAML.
        ("a: [\npassword: S3\nhost: h\n", "a: [\npassword: [redacted]\nhost: h\n"),
        ("a: {{ b }}\npassword:\n  x: S3\n\n  y: S3\nhost: h\n", "a: {{ b }}\npassword:\n  [redacted]\n\n  [redacted]\nhost: h\n"),
        (
            "x: {{ }}\ntokens:\n- S3\n- S3\nhost: h\n- secret: S3\n  a: b\n",
            "x: {{ }}\ntokens:\n[redacted]\n[redacted]\nhost: h\n- secret: [redacted]\n  a: b\n",
        ),
        ("\ta: 1\nkind: Secret\ndata:\n  x: S3\n", "\ta: 1\nkind: Secret\ndata:\n  [redacted]\n"),
        ("{\"a\":1,\"token\":\"S3\"", "{\"a\":1,\"token\":[redacted]"),
    ] {
        assert_eq!(source(given), shown, "{given}");
    }
}

#[test]
fn findings_show_their_lines_without_secrets_and_point_at_the_same_place() {
    let text = "spec:\n  pluginConfig: { password: S3crét, wrong: 7, apiTokens: [S3cret] }\n";
    let source = Arc::new(Source::new("p.yaml", text, 11));
    let tree = &node::parse(&source).unwrap()[0];
    let config = tree.get("spec").unwrap().get("pluginConfig").unwrap();
    let finding = |at: &node::Node, message: &str| {
        Diagnostic::error("InvalidValue", message).help("a longer one").at(&at.span.place(&source), "spec.pluginConfig")
    };
    let wrong = finding(config.get("wrong").unwrap(), "7 is wrong");
    let drawn = wrong.snippet(false);
    let line = drawn.lines().find(|l| l.contains("pluginConfig: {")).unwrap();
    let caret = drawn.lines().find(|l| l.contains('^')).unwrap();
    // Where it is in the file, not in what is shown.
    let column = 1 + text.lines().nth(1).unwrap().chars().position(|c| c == '7').unwrap();
    assert!(drawn.contains(&format!("p.yaml:12:{column}\n")), "{drawn}");
    assert!(line.starts_with("12 |") && !drawn.contains("S3cret"), "{drawn}");
    assert_eq!(line.chars().nth(caret.chars().position(|c| c == '^').unwrap()), Some('7'), "{drawn}");
    // A message that quotes its own value.
    let quoting = finding(config.get("password").unwrap(), "`S3crét` is too short");
    for shown in [quoting.snippet(false), quoting.line(), serde_json::to_string(&quoting).unwrap()] {
        assert!(!shown.contains("S3cr") && shown.contains("`[redacted]` is too short"), "{shown}");
    }
    // Over all of it.
    let all = finding(config, "all of it").snippet(false);
    assert!(!all.contains("S3cr"), "{all}");
}

#[test]
fn characters_of_several_bytes_before_a_key_do_no_harm() {
    // Neither is YAML, so that the lines are looked at one by one.
    for (text, shown) in [("a\u{35e}password: x: y", "a\u{35e}password: [redacted]"), ("\u{2014}token: 1: 2", "\u{2014}token: [redacted]")]
    {
        assert_eq!(yaml::source(text), shown);
    }
}

#[test]
fn a_place_within_a_secret_is_where_the_secret_was() {
    let source = std::sync::Arc::new(crate::source::Source::new("f.yaml", "a\u{35e}password: a\u{35e}password: x: ", 1));
    let error = crate::node::parse(&source).unwrap_err();
    let drawn = error.snippet(false);
    let (line, caret) = (drawn.lines().find(|l| l.contains("[redacted]")).unwrap(), drawn.lines().find(|l| l.contains('^')).unwrap());
    assert!(caret.find('^') <= line.char_indices().filter(|(_, c)| *c != '\u{35e}').position(|(_, c)| c == '['), "{drawn}");
}
