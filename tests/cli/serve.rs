//! `serve` as its clients meet it: answers whole and in pieces, the label, and how it begins and ends. What clients do wrong stands in
//! `serve_refuses.rs` and `serve_broken.rs`, the page in `serve_page.rs`.

use super::{Bench, assert_says, endless, refusal, text};
use assert_cmd::Command;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

/// A server on a free port; it ends with the test.
pub(super) struct Server {
    pub(super) child: Child,
    /// 127.0.0.1:PORT
    pub(super) address: String,
    pub(super) stdout: BufReader<std::process::ChildStdout>,
    agent: ureq::Agent,
}

/// `serve` with these words; `@` at the start of one stands for the bench's folder.
fn command(bench: &Bench, words: &str) -> std::process::Command {
    let place = |word: &str| word.replace('@', &format!("{}/", bench.folder.path().display()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_serve"));
    command.args(words.split_whitespace().map(place)).args(["--device", "cpu", "--threads", "2", "--compute", "fp32"]);
    command.env_remove("LLAMACARE_TOKEN").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Server {
    /// One that answers. fp32: what else is in a pass must not tip the choice between two tokens as likely as each other.
    pub(super) fn start(bench: &Bench, words: &str) -> Server {
        Server::started(command(bench, words), true)
    }

    fn started(mut command: std::process::Command, ready: bool) -> Server {
        let mut child = command.args(["--port", "0"]).spawn().expect("a process that starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).map(str::to_string);
        let Some(address) = address else {
            let mut stderr = String::new();
            child.stderr.take().expect("a pipe").read_to_string(&mut stderr).expect("text");
            panic!("{line}{stderr}");
        };
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        let mut server = Server { child, address, stdout, agent: config.build().new_agent() };
        if ready {
            server.wait_until_ready();
        }
        server
    }

    fn wait_until_ready(&mut self) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        assert!(line.starts_with("ready: ") && line.contains(&self.address), "{line}");
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn get(&self, path: &str) -> (u16, Value) {
        read(self.agent.get(self.url(path)).call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_with(path, body, &[])
    }

    pub(super) fn post_with(&self, path: &str, body: &Value, headers: &[(&str, &str)]) -> (u16, Value) {
        let request = self.agent.post(self.url(path));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        read(request.send_json(body))
    }

    /// The content of a whole answer.
    pub(super) fn answer(&self, body: &Value) -> String {
        let (status, said) = self.post("/v1/chat/completions", body);
        assert_eq!(status, 200, "{said}");
        said["choices"][0]["message"]["content"].as_str().expect("text").to_string()
    }

    /// All `data:` of a stream, to its end.
    pub(super) fn stream(&self, body: &Value) -> Vec<String> {
        let response = self.agent.post(self.url("/v1/chat/completions")).send_json(body).expect("an answer");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.into_body().read_to_string().expect("text");
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_string).collect()
    }

    /// A stream of which so many bytes were read; dropped, its connection closes.
    pub(super) fn begin_stream(&self, body: &Value, n_bytes: usize) -> TcpStream {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:";
        write!(stream, "{head} {}\r\n\r\n{body}", body.len()).expect("a request");
        let mut said = vec![0; n_bytes];
        stream.read_exact(&mut said).expect("the beginning of an answer");
        assert!(said.starts_with(b"HTTP/1.1 200 OK"), "{}", text(&said));
        stream
    }

    /// Waits until `/health` says what is expected.
    #[track_caller]
    pub(super) fn wait_for(&self, what: &str, expected: impl Fn(&Value) -> bool) {
        let begun = Instant::now();
        loop {
            let health = self.get("/health").1;
            if expected(&health) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{what} never came: {health}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(super) fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    }

    /// Asks it to end, and gives what it left: within seconds, whatever is under way.
    pub(super) fn end(mut self) -> Output {
        self.terminate();
        self.ended()
    }

    pub(super) fn ended(&mut self) -> Output {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("a process") {
                Some(status) => break status,
                None => assert!(begun.elapsed() < Duration::from_secs(30), "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.stdout.read_to_end(&mut stdout).expect("a pipe");
        self.child.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("a pipe");
        Output { status, stdout, stderr }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let response = response.expect("an answer of some kind");
    let status = response.status().as_u16();
    let text = response.into_body().read_to_string().expect("text");
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status}: not JSON: {text:?}")))
}

/// A request with one question and these fields.
pub(super) fn ask(question: &str, more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": question}]});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    body
}

/// The pieces of a stream put together as a whole answer would say it: text, finish, usage, and what stands beside.
fn together(data: &[String]) -> (String, Value, Value, Value) {
    let (last, pieces) = data.split_last().expect("pieces");
    assert_eq!(last, "[DONE]");
    let pieces: Vec<Value> = pieces.iter().map(|piece| serde_json::from_str(piece).expect("JSON")).collect();
    assert!(pieces.iter().all(|piece| piece["object"] == "chat.completion.chunk" && piece["id"] == pieces[0]["id"]));
    assert_eq!(pieces[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let content = |piece: &Value| piece["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_string();
    let n = pieces.len();
    let finish = &pieces[n - 2]["choices"][0]["finish_reason"];
    assert_eq!(pieces[n - 1]["choices"], json!([]));
    (
        pieces.iter().map(content).collect(),
        finish.clone(),
        pieces[n - 1]["usage"].clone(),
        pieces[0]["llamacare"].clone(),
    )
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model --name tiny");
    for more in [
        json!({"max_tokens": 20}),
        json!({"max_completion_tokens": 9, "model": "tiny", "user": "me"}),
        json!({"max_tokens": 20, "temperature": 0.9, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 7}),
    ] {
        let body = ask("Does Amoxal lower pain?", more.clone());
        let (status, whole) = server.post("/v1/chat/completions", &body);
        assert_eq!(
            (status, &whole["object"], &whole["model"]),
            (200, &json!("chat.completion"), &json!("tiny")),
            "{whole}"
        );
        let mut streamed = body.clone();
        streamed
            .as_object_mut()
            .unwrap()
            .extend([("stream".into(), true.into()), ("stream_options".into(), json!({"include_usage": true}))]);
        let (text, finish, usage, beside) = together(&server.stream(&streamed));
        let choice = &whole["choices"][0];
        assert_eq!((&json!(text), &finish), (&choice["message"]["content"], &choice["finish_reason"]), "{more}");
        assert_eq!((&usage, finish.as_str()), (&whole["usage"], Some("length")));
        assert_eq!(usage["completion_tokens"], *more.get("max_tokens").unwrap_or(&json!(9)));
        // One token a byte, and BOS; the template ends with a line break.
        assert_eq!(usage["prompt_tokens"], "Does Amoxal lower pain?".len() + 2);
        assert_eq!((&beside["label"], &whole["llamacare"]["label"]), (&Value::Null, &Value::Null));
        assert_says(beside["notice"].as_str().unwrap(), &["no medical advice"]);
    }
    let (_, models) = server.get("/v1/models");
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("tiny"), &json!(8192)));
}

#[test]
fn what_is_sampled_differs_unless_the_seed_is_the_same() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model");
    let of = |more: Value| server.answer(&ask("Why?", more));
    let drawn = |seed: i64| of(json!({"max_tokens": 30, "temperature": 1.5, "seed": seed}));
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
    let unseeded = || of(json!({"max_tokens": 30, "temperature": 1.5}));
    assert_ne!(unseeded(), unseeded());
}

#[test]
fn an_answer_ends_before_a_stop_text() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model");
    let whole = server.answer(&ask("Why?", json!({"max_tokens": 40})));
    let at = whole.char_indices().map(|(at, _)| at).nth(12).expect("a long answer");
    let stop = &whole[at..at + whole[at..].chars().take(3).map(char::len_utf8).sum::<usize>()];
    let cut = whole.find(stop).expect("it is in there");
    for stop in [json!(stop), json!(["never said", stop])] {
        let (_, said) = server.post("/v1/chat/completions", &ask("Why?", json!({"max_tokens": 40, "stop": stop})));
        assert_eq!(said["choices"][0]["message"]["content"], whole[..cut]);
        assert_eq!(said["choices"][0]["finish_reason"], "stop");
        assert!(said["usage"]["completion_tokens"].as_u64().unwrap() <= 40, "{said}");
    }
}

#[test]
fn what_was_said_before_is_part_of_the_question() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model");
    let say = |role: &str, content: &str| json!({"role": role, "content": content});
    let of = |messages: Value| server.answer(&json!({"messages": messages, "max_tokens": 16}));
    let alone = of(json!([say("user", "Why?")]));
    let after = of(json!([say("user", "Does it?"), say("assistant", "No."), say("user", "Why?")]));
    let told = of(json!([say("system", "Be kind."), say("user", "Why?")]));
    let parts = json!([{"type": "text", "text": "Why?"}]);
    assert_eq!(of(json!([{"role": "user", "content": parts}])), alone);
    assert_eq!(of(json!([say("developer", "Be kind."), say("user", "Why?")])), told);
    assert!(alone != after && alone != told && after != told);
    let with_context = server.answer(&ask("Why?", json!({"context": "Pain fell.", "max_tokens": 16})));
    assert_ne!(with_context, alone);
}

#[test]
fn answer_and_label_are_those_of_chat() {
    let bench = Bench::new();
    bench.trained("a", "--eci mean --eci-dims 8");
    let row = json!({"question": "Does Cardel lower pain?", "context": "We gave Cardel to 20 people. Pain fell."});
    let words = ["--adapter", "a", "--once", "--quiet", "--new-tokens", "12", "--device", "cpu", "--compute", "fp32"];
    let mut chat = Command::new(env!("CARGO_BIN_EXE_chat"));
    let chat =
        chat.current_dir(bench.folder.path()).args(words).write_stdin(row.to_string()).output().expect("a process");
    assert!(chat.status.success(), "{}", text(&chat.stderr));
    let chat: Value = serde_json::from_slice(&chat.stdout).expect("a JSON line");

    let server = Server::start(&bench, "--adapter @a");
    let context = row["context"].clone();
    let (status, said) = server
        .post("/v1/chat/completions", &ask("Does Cardel lower pain?", json!({"context": context, "max_tokens": 12})));
    assert_eq!((status, &said["choices"][0]["message"]["content"]), (200, &chat["answer"]), "{said}");
    assert_eq!(said["usage"]["prompt_tokens"], chat["n_prompt"]);
    let (status, classified) = server.post("/classify", &row);
    assert_eq!(status, 200, "{classified}");
    for found in [&said["llamacare"], &classified] {
        assert_eq!((&found["label"], &found["set"]), (&chat["decision"]["label"], &chat["decision"]["set"]));
        for (label, p) in chat["decision"]["probabilities"].as_object().expect("labels") {
            let (p, found) = (p.as_f64().unwrap(), found["probabilities"][label].as_f64().unwrap());
            assert!((p - found).abs() < 1e-5, "{label}: {found}, chat says {p}");
        }
        let sum: f64 = found["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-6, "{found}");
    }
    let messages =
        json!({"messages": [{"role": "user", "content": "Does Cardel lower pain?"}], "context": row["context"]});
    let (_, again) = server.post("/classify", &messages);
    assert_eq!(again["probabilities"], classified["probabilities"]);
    let silent = ask("Does Cardel lower pain?", json!({"set": "none", "max_tokens": 1}));
    assert_eq!(server.post("/v1/chat/completions", &silent).1["llamacare"]["label"], Value::Null);
    let (_, models) = server.get("/v1/models");
    assert_eq!(
        (&models["data"][0]["id"], models["data"][0]["llamacare"]["has_heads"].as_bool()),
        (&json!("a"), Some(true))
    );
}

#[test]
fn a_port_in_use_is_refused_before_a_model_is_looked_for() {
    let bench = Bench::new();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = other.local_addr().expect("an address").port();
    let output = command(&bench, &format!("--model @nowhere --port {port}")).output().expect("a process");
    assert_says(&refusal(&output, 2), &[&format!("port {port} of 127.0.0.1 is in use"), "--port"]);
    for (words, parts) in [
        ("--model @nowhere --port 0", &["nowhere"][..]),
        ("--model @model --port 0 --host 203.0.113.1", &["203.0.113.1", "--host"]),
        ("--model @model --port 0 --token é", &["token", "ASCII"]),
        ("--model @model --port 0 --template none.jinja", &["none.jinja"]),
    ] {
        let output = command(&bench, words).output().expect("a process");
        assert_says(&refusal(&output, 2), parts);
    }
}

#[test]
fn while_the_model_loads_clients_are_told_to_come_back() {
    let bench = Bench::new();
    // Loading waits for what is written into this pipe.
    let pipe = bench.path("t.jinja");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let mut server = Server::started(command(&bench, "--model @model --template @t.jinja"), false);
    let (status, said) = server.post("/v1/chat/completions", &ask("Why?", json!({})));
    assert_eq!((status, said["error"]["code"].as_str()), (503, Some("loading")), "{said}");
    let (status, health) = server.get("/health");
    assert_eq!((status, &health["status"]), (503, &json!("loading")));
    std::fs::write(&pipe, "{{ question }}\n--- completion ---\n{{ output }}\n").expect("a reader");
    server.wait_until_ready();
    assert_eq!(server.get("/health").0, 200);
    server.answer(&ask("Why?", json!({"max_tokens": 2})));
}

#[test]
fn asked_to_end_it_lets_answers_finish_and_ends_with_0() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model");
    let mut short = server.begin_stream(&ask("Why?", json!({"max_tokens": 60, "stream": true})), 200);
    server.terminate();
    let mut rest = String::new();
    short.read_to_string(&mut rest).expect("the rest of the answer");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    let output = { server }.ended();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_says(&text(&output.stderr), &["Stopping"]);

    let idle = Server::start(&bench, "--model @model");
    let _keeps_its_connection = TcpStream::connect(&idle.address).expect("a connection");
    assert_eq!(idle.end().status.code(), Some(0));
}

#[test]
fn whoever_opens_it_to_the_network_without_a_token_is_warned() {
    let bench = Bench::new();
    for (words, warned) in [("--host 0.0.0.0", true), ("--host 0.0.0.0 --token abc", false), ("", false)] {
        let server = Server::start(&bench, &format!("--model @model {words}"));
        let stderr = text(&server.end().stderr);
        assert_eq!(
            stderr.contains("warning: whoever can reach") && stderr.contains("--token"),
            warned,
            "{words}: {stderr}"
        );
    }
}
