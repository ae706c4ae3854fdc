//! What `serve` refuses, each with the right status and in OpenAI's shape, and what it limits: size, number, time, and who may ask.

use super::endless;
use super::serve::{Server, ask};
use super::{Bench, assert_says};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;

/// A request as it is; what comes back until the connection closes: status, headers, JSON.
fn raw(server: &Server, head: &str, body: &[u8]) -> (u16, String, Value) {
    let mut stream = TcpStream::connect(&server.address).expect("a connection");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).expect("a timeout");
    write!(stream, "{head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).expect("a head");
    // A refusal may come, and the connection close, before all of a large body is sent.
    let _ = stream.write_all(body);
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8(said).expect("text");
    let (head, body) = said.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {said:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

const POST: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";

/// Head and body of a request; status, param and code of its refusal, and what its sentence says.
type Refused = (String, Vec<u8>, u16, Value, Value, &'static [&'static str]);

#[test]
fn every_refusal_has_its_status_and_openais_shape() {
    let bench = Bench::new();
    let server = Server::start(&bench, "--model @model --max-new-tokens 600 --max-body 100KiB");
    let good = ask("Why?", json!({"max_tokens": 2})).to_string();
    let with = |more: Value| ask("Why?", more).to_string().into_bytes();
    let long = "x".repeat(600);
    let head = |line: &str, kind: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}");
    let json_to = |path: &str| head(&format!("POST {path}"), "application/json");
    let to = "POST /v1/chat/completions";
    #[rustfmt::skip]
    let cases: Vec<Refused> = vec![
        (POST.into(), b"{".to_vec(), 400, json!(null), json!(null), &["not JSON", "line 1"]),
        (POST.into(), b"".to_vec(), 400, json!(null), json!(null), &["not JSON"]),
        (POST.into(), b"\xff\xfe{}".to_vec(), 400, json!(null), json!(null), &["not JSON"]),
        (POST.into(), b"[]".to_vec(), 400, json!(null), json!(null), &["is a list", "messages"]),
        (POST.into(), "[".repeat(5000).into_bytes(), 400, json!(null), json!(null), &["not JSON", "recursion"]),
        (POST.into(), with(json!({"temperature": "hot"})), 400, json!("temperature"), json!(null), &["a string", "number"]),
        (POST.into(), with(json!({"top_p": 0})), 400, json!(null), json!(null), &["top_p 0"]),
        (POST.into(), with(json!({"max_tokens": 601})), 400, json!("max_tokens"), json!(null), &["601", "1 to 512"]),
        (POST.into(), with(json!({"n": 2})), 400, json!("n"), json!("unsupported"), &["\"n\" is not supported"]),
        (POST.into(), with(json!({"tools": [1]})), 400, json!("tools"), json!("unsupported"), &["tools"]),
        (POST.into(), with(json!({"max_tokenz": 3})), 400, json!("max_tokenz"), json!(null), &["did you mean \"max_tokens\""]),
        (POST.into(), with(json!({"set": "eci"})), 400, json!("set"), json!(null), &["not trained to decide"]),
        (POST.into(), ask(&long, json!({})).to_string().into_bytes(), 400, json!("messages"), json!("context_length_exceeded"),
            &["602 tokens", "512 in all"]),
        (POST.into(), with(json!({"max_tokens": 510})), 400, json!("messages"), json!("context_length_exceeded"), &["510"]),
        (POST.into(), with(json!({"model": "gpt-4"})), 404, json!("model"), json!("model_not_found"), &["\"gpt-4\"", "\"model\""]),
        (json_to("/v1/completions"), good.clone().into(), 404, json!(null), json!(null), &["nothing at \"/v1/completions\""]),
        (json_to("/v1/models"), good.clone().into(), 405, json!(null), json!(null), &["does not take POST"]),
        (head("GET /classify", "application/json"), vec![], 405, json!(null), json!(null), &["does not take GET"]),
        (head(to, "text/plain"), good.clone().into(), 415, json!(null), json!(null), &["\"text/plain\"", "application/json"]),
        (head(to, ""), good.clone().into(), 415, json!(null), json!(null), &["application/json"]),
        (POST.into(), vec![b' '; 200 << 10], 413, json!(null), json!(null), &["100", "KiB"]),
        (json_to("/classify"), b"{\"question\": \"Why?\"}".to_vec(), 400, json!(null), json!("no_head"), &["no ECI head"]),
    ];
    for (head, body, status, param, code, parts) in cases {
        let shown = format!("{head:?} {}", String::from_utf8_lossy(&body[..body.len().min(100)]));
        let (found, _, said) = raw(&server, &head, &body);
        let error = &said["error"];
        assert_eq!((found, error["type"].as_str()), (status, Some("invalid_request_error")), "{shown}: {said}");
        assert_eq!((&error["param"], &error["code"]), (&param, &code), "{shown}: {said}");
        assert_says(error["message"].as_str().expect("a sentence"), parts);
        assert_eq!(said.as_object().map(|said| said.len()), Some(1), "{said}");
    }
    // A name that was made to point at this machine, as a page of some website can.
    let (status, _, said) = raw(&server, &POST.replace("localhost", "evil.example"), good.as_bytes());
    assert_eq!((status, said["error"]["code"].as_str()), (403, Some("host")), "{said}");
    // No page of another origin may read an answer.
    let (status, head, _) = raw(&server, &format!("{POST}\r\nOrigin: http://evil.example"), good.as_bytes());
    assert!(status == 200 && !head.contains("access-control"), "{head}");
}

#[test]
fn a_token_is_asked_for_everywhere_but_on_the_page() {
    let bench = Bench::new();
    let server = Server::start(&bench, "--model @model --token s3cret");
    let body = ask("Why?", json!({"max_tokens": 2}));
    for headers in [
        &[][..],
        &[("Authorization", "Bearer s3cre")],
        &[("Authorization", "Bearer s3cret2")],
        &[("Authorization", "s3cret")],
    ] {
        for path in ["/v1/chat/completions", "/classify", "/nowhere"] {
            let (status, said) = server.post_with(path, &body, headers);
            assert_eq!(
                (status, said["error"]["type"].as_str()),
                (401, Some("authentication_error")),
                "{path} {headers:?}"
            );
            assert_eq!(said["error"]["code"], "invalid_api_key");
        }
    }
    assert_eq!(server.get("/v1/models").0, 401);
    let (status, head, _) = raw(&server, POST, b"{}");
    assert!(status == 401 && head.contains("www-authenticate: bearer"), "{head}");
    let good = [("Authorization", "Bearer s3cret")];
    assert_eq!(server.post_with("/v1/chat/completions", &body, &good).0, 200);
    assert_eq!(server.get("/health").0, 200);
    let (status, head, _) = raw(&server, "GET / HTTP/1.1\r\nHost: anything", b"");
    assert!(status == 200 && head.contains("text/html") && head.contains("x-frame-options: deny"), "{head}");
}

#[test]
fn a_request_beyond_the_queue_is_told_to_come_back_and_one_that_leaves_makes_room() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model --queue 1 --max-new-tokens 8000");
    let long = ask("Why?", json!({"max_tokens": 8000, "stream": true}));
    let first = server.begin_stream(&long, 300);
    let (status, head, said) = raw(&server, POST, ask("Why?", json!({"max_tokens": 2})).to_string().as_bytes());
    assert_eq!((status, said["error"]["type"].as_str()), (429, Some("rate_limit_error")), "{said}");
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(said["error"]["code"], "queue_full");
    drop(first);
    server.wait_for("the cancellation", |health| health["cancelled"] == 1 && health["under_way"] == 0);
    assert_eq!(server.get("/health").1["answered"], 0);
    server.answer(&ask("Why?", json!({"max_tokens": 2})));

    // One that is not streamed, too, ends with its connection.
    let mut whole = TcpStream::connect(&server.address).expect("a connection");
    let body = ask("Why?", json!({"max_tokens": 8000})).to_string();
    write!(whole, "{POST}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("a request");
    server.wait_for("the request", |health| health["under_way"] == 1);
    drop(whole);
    server.wait_for("the cancellation", |health| health["cancelled"] == 2 && health["under_way"] == 0);
}

#[test]
fn an_answer_that_takes_too_long_is_cut_and_does_not_look_complete() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model --timeout 0.5 --max-new-tokens 8000");
    let (status, said) = server.post("/v1/chat/completions", &ask("Why?", json!({"max_tokens": 8000})));
    assert_eq!((status, said["error"]["type"].as_str()), (504, Some("timeout_error")), "{said}");
    assert_says(said["error"]["message"].as_str().unwrap(), &["0.5 seconds"]);
    let data = server.stream(&ask("Why?", json!({"max_tokens": 8000, "stream": true})));
    let last: Value = serde_json::from_str(data.last().expect("data")).expect("an error, not [DONE]");
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    assert!(data.len() > 2, "nothing was said before: {data:?}");
    assert!(!data.iter().any(|piece| piece.contains("\"finish_reason\":\"")), "{data:?}");
    server.wait_for("the cancellations", |health| health["cancelled"] == 2 && health["under_way"] == 0);
    server.answer(&ask("Why?", json!({"max_tokens": 2})));
}

#[test]
fn a_request_that_breaks_the_model_is_told_so_and_the_next_is_answered() {
    let bench = Bench::new();
    // One letter has a dimension of its own, in which its keys overflow: all numbers of the files are finite, and what comes of the letter
    // is not. BOS, EOS and the unknown token come before the bytes, of which "!" is the first.
    let letter = 3 + usize::from(b'Z' - b'!');
    bench.edit_tensors(|tensors| {
        let mut put = |name: &str, value: &dyn Fn(usize, usize) -> Option<f32>| {
            let (_, shape, bytes) = tensors.get_mut(name).expect("a tensor");
            for (i, bytes) in bytes.chunks_exact_mut(2).enumerate() {
                if let Some(value) = value(i / shape[1], i % shape[1]) {
                    bytes.copy_from_slice(&((value.to_bits() >> 16) as u16).to_le_bytes());
                }
            }
        };
        put("model.embed_tokens.weight", &|id, column| (column == 0).then_some(if id == letter { 8.0 } else { 0.0 }));
        let huge = |row: usize| if row.is_multiple_of(2) { 3e38 } else { -3e38 };
        put("model.layers.0.self_attn.k_proj.weight", &|row, column| (column == 0).then(|| huge(row)));
        for name in ["self_attn.o_proj", "mlp.down_proj"] {
            put(&format!("model.layers.0.{name}.weight"), &|row, _| (row == 0).then_some(0.0));
        }
    });
    let server = Server::start(&bench, "--model @model --quant none");
    let good = ask("Why?", json!({"max_tokens": 8}));
    let answer = server.answer(&good);
    for stream in [false, true] {
        let (status, said) = match stream {
            false => server.post("/v1/chat/completions", &ask("Z?", json!({}))),
            true => {
                let data = server.stream(&ask("Z?", json!({"stream": true})));
                (500, serde_json::from_str(data.last().expect("an error")).expect("JSON"))
            }
        };
        assert_eq!((status, said["error"]["code"].as_str()), (500, Some("engine")), "{said}");
        assert_says(said["error"]["message"].as_str().unwrap(), &["not a number"]);
        assert_eq!(server.answer(&good), answer);
    }
    let (status, health) = server.get("/health");
    assert_eq!((status, &health["failed"], &health["status"]), (200, &json!(2), &json!("ok")));
}
