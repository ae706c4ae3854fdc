//! A thousand broken requests among good ones, from four clients at once: every good one is answered, and right; what the server holds
//! does not grow; and it ends as it should.

use super::endless;
use super::serve::{Server, ask};
use super::text;
use llamacare::data::SplitMix64;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

const CLIENTS: u64 = 4;
const EACH: usize = 250;

/// Ways to be a bad client.
fn kinds<'a>() -> [fn(&mut Client<'a>); 14] {
    [
        Client::malformed_json,
        Client::wrong_types,
        Client::wrong_method,
        Client::unknown_path,
        Client::huge_body,
        Client::body_that_never_ends,
        Client::cut_off,
        Client::garbage,
        Client::invalid_utf8,
        Client::too_long_prompt,
        Client::cancelled_stream,
        Client::lying_length,
        Client::nothing_at_all,
        Client::many_headers,
    ]
}

struct Client<'a> {
    server: &'a Server,
    random: SplitMix64,
}

impl Client<'_> {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.server.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream
    }

    /// Sends bytes and reads what comes, until either side has enough; whatever is refused on the way is no fault of the client's.
    fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        text(&said)
    }

    /// A whole request with this body, which must be refused with one of these statuses.
    fn refused(&self, line: &str, body: &[u8], statuses: &[&str]) {
        let mut stream = self.connect();
        let head =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n");
        let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(body);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = text(&said);
        let status = said.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&status), "{line}: expected {statuses:?}: {said}");
        assert!(said.contains("\"error\":{\"message\":\""), "{said}");
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.random.below(256) as u8).collect()
    }

    fn good_body(&mut self) -> String {
        ask("Does Amoxal lower pain?", json!({"max_tokens": 1 + self.random.below(8)})).to_string()
    }

    fn malformed_json(&mut self) {
        let mut body = self.good_body();
        body.truncate(1 + self.random.below(body.len() - 2));
        self.refused("POST /v1/chat/completions", body.as_bytes(), &["400"]);
    }

    fn wrong_types(&mut self) {
        let values = [json!("x"), json!(-5), json!([[]]), json!({"a": {}}), json!(1e300), json!("")];
        let fields = ["messages", "max_tokens", "temperature", "top_p", "stream", "seed", "stream_options"];
        let (field, value) = (fields[self.random.below(fields.len())], &values[self.random.below(2) * 2]);
        let body = match field {
            "seed" => ask("Why?", json!({"seed": 1.5})),
            _ => ask("Why?", json!({field: value})),
        };
        self.refused("POST /v1/chat/completions", body.to_string().as_bytes(), &["400"]);
    }

    fn wrong_method(&mut self) {
        let lines = ["GET /v1/chat/completions", "PUT /classify", "DELETE /v1/models", "POST /health", "PATCH /"];
        let line = lines[self.random.below(lines.len())];
        self.refused(line, b"{}", &["405"]);
    }

    fn unknown_path(&mut self) {
        let path: String = (0..self.random.below(60)).map(|_| char::from(b'a' + self.random.below(26) as u8)).collect();
        self.refused(&format!("POST /{path}x/../%00"), b"{}", &["404"]);
    }

    fn huge_body(&mut self) {
        let mut stream = self.connect();
        let n = (64 << 10) + self.random.below(1 << 20);
        let _ = write!(
            stream,
            "POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {n}\r\n\r\n"
        );
        // The answer may come, and the connection close, while we still write.
        let _ = stream.write_all(&vec![b' '; n]);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 413"), "{}", text(&said));
    }

    fn body_that_never_ends(&mut self) {
        let mut stream = self.connect();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        let _ = stream.write_all(head.as_bytes());
        let chunk = [b"4000\r\n".to_vec(), vec![b'['; 0x4000], b"\r\n".to_vec()].concat();
        let written = (0..64).take_while(|_| stream.write_all(&chunk).is_ok()).count();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(written < 64 || said.starts_with(b"HTTP/1.1 413"), "{}", text(&said));
    }

    fn cut_off(&mut self) {
        let body = self.good_body();
        let whole = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let n = 1 + self.random.below(whole.len() - 1);
        let mut stream = self.connect();
        let _ = stream.write_all(&whole.as_bytes()[..n]);
    }

    fn garbage(&mut self) {
        let n = 1 + self.random.below(3000);
        let bytes = self.bytes(n);
        let said = self.send(&bytes);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }

    fn invalid_utf8(&mut self) {
        let mut body = self.good_body().into_bytes();
        let at = body.windows(4).position(|word| word == b"Does").expect("the question");
        body[at + self.random.below(4)] = 0x80 | self.random.below(128) as u8;
        self.refused("POST /v1/chat/completions", &body, &["400"]);
    }

    fn too_long_prompt(&mut self) {
        let n = 1020 + self.random.below(20_000);
        let body = ask(&"w".repeat(n), json!({"max_tokens": 4, "stream": self.random.below(2) == 0}));
        self.refused("POST /v1/chat/completions", body.to_string().as_bytes(), &["400"]);
    }

    fn cancelled_stream(&mut self) {
        let n = 100 + self.random.below(400);
        drop(self.server.begin_stream(&ask("Why?", json!({"max_tokens": 900, "stream": true})), n));
    }

    /// More is promised than comes, or less.
    fn lying_length(&mut self) {
        let body = self.good_body();
        let n = self.random.below(2 * body.len());
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length:";
        self.send(format!("{head} {n}\r\n\r\n{body}").as_bytes());
    }

    fn nothing_at_all(&mut self) {
        drop(self.connect());
    }

    fn many_headers(&mut self) {
        let n = 200 + self.random.below(2000);
        let headers: String = (0..n).map(|i| format!("X-{i}: {i}\r\n")).collect();
        let said = self.send(format!("GET /health HTTP/1.1\r\n{headers}\r\n").as_bytes());
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
    }
}

/// KiB of memory in use, and threads.
fn holds(server: &Server) -> (usize, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).expect("a process of Linux");
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of status");
        line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
    };
    (number("VmRSS:"), number("Threads:"))
}

#[test]
fn a_thousand_broken_requests_harm_no_good_one() {
    let bench = endless();
    let server = Server::start(&bench, "--model @model --max-length 1024 --max-body 64KiB --max-new-tokens 900");
    let question = |i: usize| ask(&format!("Does drug {} lower pain?", i % 3), json!({"max_tokens": 6}));
    let right: Vec<String> = (0..3).map(|i| server.answer(&question(i))).collect();
    let round = |clients: std::ops::Range<u64>, n: usize| {
        std::thread::scope(|scope| {
            for seed in clients {
                let (server, right) = (&server, &right);
                scope.spawn(move || {
                    let mut client = Client { server, random: SplitMix64::new(seed, 0) };
                    for i in 0..n {
                        // Every kind comes; the order is the seed's.
                        let kind = if i < kinds().len() { i } else { client.random.below(kinds().len()) };
                        kinds()[kind](&mut client);
                        if i % 5 == 0 {
                            assert_eq!(server.answer(&question(i)), right[i % 3], "after {} of client {seed}", i + 1);
                        }
                    }
                });
            }
        });
    };
    // As many as any later moment holds at once are there before we look.
    round(100..100 + CLIENTS, 40);
    server.wait_for("quiet", |health| health["under_way"] == 0);
    let (memory, threads) = holds(&server);
    round(0..CLIENTS, EACH);
    server.wait_for("quiet", |health| health["under_way"] == 0);
    let (memory_after, threads_after) = holds(&server);
    assert_eq!(threads_after, threads);
    assert!(memory_after < memory + (24 << 10), "{memory} KiB before a thousand broken requests, {memory_after} after");
    println!("{memory} KiB before, {memory_after} KiB after; {threads} threads");
    let health: Value = server.get("/health").1;
    assert_eq!((&health["status"], &health["failed"]), (&json!("ok"), &json!(0)));
    let output = server.end();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("panicked") && !said.contains("bug"), "{said}");
}
