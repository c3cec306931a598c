//! AI traffic through a plugin with the Go SDK of Higress, against a model server: conversion, streams, retries, token usage; MCP.
use crate::{
    client::Connection,
    harness::{Weir, eventually},
    plugin_services::Services,
    plugin_shapes::{PROTOCOLS, ask, shaped},
    yaml::ToEcho,
};
use serde_json::{Value, json};
use weir_test::client::Answer;

/// The first provider is the upstream of the route; the others are called by the plugin.
fn start(services: &Services, providers: &[(&str, &str)]) -> Weir {
    let provider = |(kind, token): &(&str, &str)| json!({ "id": token, "type": kind, "token": token, "service_name": "127.0.0.1", "service_port": services.port() });
    let providers: Vec<_> = providers.iter().map(provider).collect();
    let config = json!({ "shape": "ai-proxy", "timeout": 20000, "providers": providers });
    shaped(&ToEcho::new().upstream(services.port()).text(), &config)
        .arg("--access-log-format")
        .arg("LOG %FILTER_STATE(wasm.ai_log:PLAIN)%")
        .run()
}

fn chat(model: &str, stream: bool) -> Vec<u8> {
    let messages = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": "hello" }]);
    json!({ "model": model, "stream": stream, "messages": messages }).to_string().into_bytes()
}

const JSON: [(&str, &str); 2] = [("content-type", "application/json"), ("authorization", "Bearer of-the-client")];

fn events(answer: &Answer) -> Vec<String> {
    let data = answer.body.split("\n\n").filter(|e| !e.is_empty());
    data.map(|e| e.lines().find_map(|l| l.strip_prefix("data: ")).unwrap_or_else(|| panic!("{e}")).to_string()).collect()
}

/// What an answer says, of whichever form, and the tokens that it names: (text, of the prompt, of the completion).
fn said(answer: &Answer, stream: bool) -> (String, i64, i64) {
    let usage = |of: &Value| (of["usage"]["prompt_tokens"].as_i64().unwrap(), of["usage"]["completion_tokens"].as_i64().unwrap());
    if !stream {
        let whole = answer.json();
        let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_string();
        let (prompt, completion) = usage(&whole);
        return (text, prompt, completion);
    }
    let mut events = events(answer);
    assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{answer:?}");
    let events: Vec<Value> = events.iter().map(|e| serde_json::from_str(e).unwrap()).collect();
    let text = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    let (prompt, completion) = usage(events.last().unwrap());
    (text, prompt, completion)
}

#[test]
fn chats_are_converted_retried_and_counted() {
    let services = Services::start();
    let weir = start(&services, &[("claude", "one"), ("openai", "two"), ("claude", "three")]);
    let claude = |stream| if stream { ("hello", 11, 4) } else { ("hello from claude", 11, 4) };
    let openai = |stream| if stream { ("hello", 7, 2) } else { ("hello from openai", 7, 2) };
    let (mut input, mut output, mut retries, mut chats) = (0, 0, 0, 0);
    for protocol in PROTOCOLS {
        for stream in [false, true] {
            // The model, the provider that answers, and how many were asked.
            for (model, by, asked, (text, prompt, completion)) in [
                ("m", "one", 1, claude(stream)),
                ("no-one", "two", 2, openai(stream)),
                ("busy-one", "two", 2, openai(stream)),
                ("no-one-no-two", "three", 3, claude(stream)),
            ] {
                let which = format!("{protocol:?} {model} stream {stream}");
                services.take();
                let answer = ask(&weir, protocol, "POST", "/v1/chat/completions", &JSON, &chat(model, stream));
                assert_eq!((answer.status, answer.header("x-provider")), (200, Some(by)), "{which}: {answer:?}");
                assert_eq!(said(&answer, stream), (text.to_string(), prompt, completion), "{which}: {answer:?}");
                let requests = services.take();
                assert_eq!(requests.len(), asked, "{which}: {requests:?}");
                // Converted for each: Claude has the system's message elsewhere, and nobody learns the client's token.
                for request in &requests {
                    let body = request.json();
                    if request.path == "/v1/messages" {
                        assert_eq!(
                            (&body["system"], body["messages"].as_array().unwrap().len()),
                            (&json!("be brief"), 1),
                            "{which}: {body}"
                        );
                    } else {
                        assert_eq!((&*request.path, &body["messages"][0]["role"]), ("/v1/chat/completions", &json!("system")), "{which}");
                    }
                    assert!(!request.header("authorization").contains("of-the-client"), "{which}: {request:?}");
                }
                chats += 1;
                input += prompt as u64;
                output += completion as u64;
                retries += asked as u64 - 1;
                // The usage is in the access log and in the metrics.
                let logged = eventually("the access log", || weir.lines("LOG ").get(chats - 1).cloned());
                let names = [format!("input_token\\\":{prompt}"), format!("output_token\\\":{completion}"), "model".into()];
                assert!(names.iter().all(|n| logged.contains(n)), "{which}: {logged}");
            }
        }
    }
    let counted = || ["input_token", "output_token", "retries"].map(|name| weir.stat(&format!("wasmcustom.shapes.ai.{name}")));
    eventually("the metrics", || (counted() == [input, output, retries]).then_some(()));

    // Nobody answers: the last provider's error, which comes as it is.
    for protocol in PROTOCOLS {
        let answer = ask(&weir, protocol, "POST", "/v1/chat/completions", &JSON, &chat("no-one-no-two-no-three", false));
        assert_eq!((answer.status, answer.header("x-provider"), &*answer.body), (503, Some("three"), r#"{"error":"down"}"#), "{answer:?}");
        let bad = ask(&weir, protocol, "POST", "/v1/chat/completions", &JSON, b"{");
        assert_eq!((bad.status, &*bad.body), (400, "no JSON\n"), "{bad:?}");
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
}

/// Events pass as they come, converted: the first one is with the client while the rest is not sent yet.
#[test]
fn streams_are_converted_while_they_run() {
    let services = Services::start();
    for (kind, first) in [("claude", r#""role":"assistant""#), ("openai", r#""content":"hel""#)] {
        let weir = start(&services, &[(kind, "one")]);
        let body = String::from_utf8(chat("slow", true)).unwrap();
        let mut client = Connection::open(weir.address()).unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: shop.test\r\ncontent-type: application/json\r\n";
        client.send(format!("{head}content-length: {}\r\n\r\n{body}", body.len())).unwrap();
        assert_eq!(client.head().unwrap().status, 200);
        let mut text = String::new();
        while !text.contains("\n\n") {
            text += &String::from_utf8(client.chunk().unwrap().expect("the first event")).unwrap();
        }
        assert!(text.contains(first) && !text.contains("lo\""), "{kind}: {text}");
        services.go_on();
        while let Some(piece) = client.chunk().unwrap() {
            text += &String::from_utf8(piece).unwrap();
        }
        assert!(text.ends_with("data: [DONE]\n\n"), "{kind}: {text}");
        assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
    }
}

#[test]
fn a_server_of_the_model_context_protocol() {
    let services = Services::start();
    let config = json!({
        "shape": "mcp-server", "service_name": "127.0.0.1", "service_port": services.port(), "timeout": 20000, "sse_prefix": "/old",
        "tool": { "name": "use", "path": "/tool/use" },
    });
    let weir = shaped(&ToEcho::new().upstream(services.port()).text(), &config).run();
    let call = |name: &str, what: &str| json!({ "name": name, "arguments": { "what": what } });
    let used = |what: &str, failed: bool| json!({ "content": [{ "type": "text", "text": format!("used with {}", json!({ "what": what })) }], "isError": failed });
    for protocol in PROTOCOLS {
        // Streamable HTTP: an answer is one JSON document, or one event where the client accepts nothing else.
        for accept in ["application/json, text/event-stream", "text/event-stream"] {
            let send = |message: Value| {
                let headers = [("content-type", "application/json"), ("accept", accept)];
                let answer = ask(&weir, protocol, "POST", "/mcp", &headers, message.to_string().as_bytes());
                if answer.status != 200 {
                    return (answer.status, Value::Null);
                }
                let kind = if accept.starts_with("text") { "text/event-stream" } else { "application/json" };
                assert_eq!(answer.header("content-type"), Some(kind), "{answer:?}");
                let text = if accept.starts_with("text") { events(&answer).remove(0) } else { answer.body };
                (200, serde_json::from_str(&text).unwrap())
            };
            let request = |method: &str, params: Value| {
                let (status, answer) = send(json!({ "jsonrpc": "2.0", "id": "r-1", "method": method, "params": params }));
                assert_eq!((status, &answer["id"], &answer["jsonrpc"]), (200, &json!("r-1"), &json!("2.0")), "{method}: {answer}");
                answer
            };
            assert_eq!(request("initialize", json!({}))["result"]["protocolVersion"], "2025-03-26");
            assert_eq!(send(json!({ "jsonrpc": "2.0", "method": "notifications/initialized" })), (202, Value::Null));
            assert_eq!(request("tools/list", json!({}))["result"]["tools"][0]["name"], "use");
            assert_eq!(request("tools/call", call("use", "care"))["result"], used("care", false));
            assert_eq!(request("tools/call", call("use", "fail"))["result"], used("fail", true));
            assert_eq!(request("tools/call", call("none", ""))["error"]["code"], -32602);
            assert_eq!(request("resources/list", json!({}))["error"]["code"], -32601);
        }
        let answer = ask(&weir, protocol, "POST", "/mcp", &[("content-type", "application/json")], b"{}");
        assert!(answer.status == 400 && answer.json()["error"]["code"] == -32600, "{answer:?}");
        let answer = ask(&weir, protocol, "GET", "/mcp", &[("accept", "text/event-stream")], b"");
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{answer:?}");
        // HTTP+SSE: the client learns where its messages go, below the prefix.
        let answer = ask(&weir, protocol, "GET", "/old/sse", &[("accept", "text/event-stream")], b"");
        assert_eq!(
            (answer.status, &*events(&answer)),
            (200, &["/old/messages?session=7".to_string(), "{\"id\":1}".into()][..]),
            "{answer:?}"
        );
    }
    assert_eq!(weir.stat("weir_wasm_traps.default/shape"), 0);
}
