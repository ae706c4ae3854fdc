//! `chat` as its user meets it: a conversation through a pipe, a file of questions at once, and what is refused. The answers themselves are
//! held against transformers in `chat_oracle.rs`.

use super::{Bench, assert_says, endless, refusal, text};
use assert_cmd::Command;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Child, Output, Stdio};

const NOTICE: &str = "Research software: what it says may be wrong and is no medical advice.";

/// `chat` with these words; `@` at the start of one stands for the bench's folder.
fn command(bench: &Bench, words: &str) -> std::process::Command {
    let place = |word: &str| word.replace('@', &format!("{}/", bench.folder.path().display()));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_chat"));
    command.args(words.split_whitespace().map(place)).args(["--device", "cpu", "--threads", "2"]);
    command
}

/// Runs it with these lines on its standard input.
fn run(bench: &Bench, words: &str, lines: &str) -> Output {
    Command::from_std(command(bench, words)).write_stdin(lines).output().expect("a process that starts")
}

/// What a conversation of these lines says on stdout.
fn said(bench: &Bench, words: &str, lines: &str) -> String {
    let output = run(bench, &format!("--model @model --new-tokens 12 {words}"), lines);
    assert!(output.status.success(), "{words}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The lines that `chat --once` writes on these.
fn once(bench: &Bench, words: &str, lines: &str) -> Vec<Value> {
    let output = run(bench, &format!("--once {words}"), lines);
    assert!(output.status.success(), "{words}: {}", text(&output.stderr));
    json_lines(&text(&output.stdout))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// The sentence with which `chat` refuses this before it says anything.
#[track_caller]
fn refused(bench: &Bench, words: &str) -> String {
    let output = run(bench, words, "Q?\n");
    assert_eq!(text(&output.stdout), "", "{words}");
    refusal(&output, 2)
}

fn piped(bench: &Bench, words: &str) -> Child {
    let mut command = command(bench, words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("a process that starts")
}

#[test]
fn what_was_said_before_goes_into_the_next_question_until_another_conversation_begins() {
    let bench = Bench::new();
    let one = said(&bench, "", "Does it help?");
    let two = said(&bench, "", "Does it help?\nWhy?\n");
    let (again, second) = (said(&bench, "", "\nDoes it help?\n/new\nDoes it help?\n/quit\nWhy?\n"), &two[one.len()..]);
    assert_eq!(again, format!("{one}{one}"));
    assert_eq!(&two[..one.len()], one);
    assert_ne!(said(&bench, "", "Why?"), second);
    // The same history as a row of data gives the same answer: one renderer.
    let row = json!({"instruction": "Why?", "history": [["Does it help?", one.trim()]]}).to_string();
    let lines = once(&bench, "--model @model --new-tokens 12", &row);
    assert_eq!(format!("{}\n\n", lines[0]["answer"].as_str().unwrap()), second);
}

#[test]
fn a_system_text_and_a_context_are_read_before_the_question() {
    let bench = Bench::new();
    let plain = said(&bench, "", "Does it help?");
    bench.file("study.txt", "Pain fell by half.\n");
    let with_context = said(&bench, "--context @study.txt", "Does it help?");
    let row = json!({"id": "c", "question": "Does it help?", "context": "Pain fell by half."}).to_string();
    let lines = once(&bench, "--model @model --new-tokens 12", &row);
    assert_eq!(format!("{}\n\n", lines[0]["answer"].as_str().unwrap()), with_context);
    let with_system = said(&bench, "", "/system Be brief.\nDoes it help?");
    bench.file("t.jinja", "Be brief.\n\n{{ question }}\n--- completion ---\n{{ output }}\n");
    assert_eq!(with_system, said(&bench, "--template @t.jinja", "Does it help?"));
    assert!(plain != with_context && plain != with_system && with_context != with_system);
    assert_eq!(said(&bench, "", "/system Be brief.\n/system\nDoes it help?"), plain);
}

#[test]
fn that_it_is_no_medical_advice_is_always_said() {
    let bench = Bench::new();
    for words in ["", "--quiet"] {
        let output = run(&bench, &format!("--model @model --new-tokens 2 {words}"), "Q?");
        assert!(text(&output.stderr).starts_with(NOTICE), "{words}: {}", text(&output.stderr));
    }
    let lines = once(&bench, "--model @model --new-tokens 2 --quiet", "{\"question\": \"a\"}\n{\"question\": \"b\"}");
    assert!(lines.len() == 2 && lines.iter().all(|line| line["notice"] == NOTICE), "{lines:?}");
    let output = run(&bench, "--model @model --new-tokens 2 --quiet --once", "{\"question\": \"a\"}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_label_of_the_head_stands_beside_the_answer() {
    let bench = Bench::new();
    bench.trained("a", "--eci mean --eci-dims 8");
    let talk = |lines: &str| {
        let output = run(&bench, "--adapter @a --new-tokens 5", lines);
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (answer, _) = talk("Does Cardel lower pain?");
    let label =
        answer.lines().rev().find(|line| line.starts_with('[')).unwrap_or_else(|| panic!("no label in {answer:?}"));
    let shares: Vec<f64> = label.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(shares.len() == 3 && shares.is_sorted_by(|a, b| a >= b), "{label}");
    assert!((shares.iter().sum::<f64>() - 100.0).abs() < 0.2, "{label}");
    assert_says(label, &["yes ", "no ", "maybe ", " % | "]);
    let (silent, stderr) = talk("/label off\nDoes Cardel lower pain?\n/label");
    assert!(!silent.contains("% |"), "{silent}");
    assert_says(&stderr, &["decided about each question: nothing; there are maybe-no-yes (maybe,no,yes)"]);
    let output = run(&bench, "--adapter @a --new-tokens 5", "/label yes,no");
    assert_says(
        &text(&output.stderr),
        &["error: no label set \"yes,no\"; there are maybe-no-yes (maybe,no,yes), or say none"],
    );
    let lines =
        once(&bench, "--adapter @a --new-tokens 0", "{\"id\": \"x\", \"question\": \"Does Cardel lower pain?\"}");
    let decision = &lines[0]["decision"];
    let all: Vec<f64> = ["maybe", "no", "yes"].map(|label| decision["probabilities"][label].as_f64().unwrap()).into();
    assert!((all.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{decision}");
    assert_eq!(decision["probability"], decision["probabilities"][decision["label"].as_str().unwrap()]);
    assert_eq!((&lines[0]["n_tokens"], &decision["set"]), (&json!(0), &json!("maybe-no-yes")));
    // The conversation shows the same decision.
    assert_says(
        label,
        &[&format!(
            "{} {:.1} %",
            decision["label"].as_str().unwrap(),
            100.0 * decision["probability"].as_f64().unwrap()
        )],
    );
}

/// Two ways to one number: the evaluation reads the head over a whole packed batch, the chat while it reads the prompt.
#[test]
fn the_labels_are_those_of_the_evaluation() {
    let bench = Bench::new();
    bench.trained("a", "--eci mean --eci-dims 8 --compute fp32");
    let mut evaluate = std::process::Command::new(env!("CARGO_BIN_EXE_evaluate"));
    let path = |name: &str| bench.path(name).display().to_string();
    evaluate.args(["--adapter", &path("a"), "--data", &path("rows.json"), "--out", &path("e"), "--allow-leak"]);
    evaluate.args("--new-tokens 4 --device cpu --compute fp32 --threads 2 --quiet".split(' '));
    assert!(evaluate.output().unwrap().status.success());
    let evaluated = json_lines(&std::fs::read_to_string(bench.path("e/answers.jsonl")).unwrap());
    let asked = once(&bench, "--adapter @a --compute fp32 --new-tokens 4 --in @rows.json", "");
    assert_eq!((evaluated.len(), asked.len()), (12, 12));
    let mut seen = std::collections::BTreeSet::new();
    for (one, other) in evaluated.iter().zip(&asked) {
        assert_eq!(one["id"], other["id"]);
        assert_eq!(one["text"]["text"].as_str().unwrap(), other["answer"].as_str().unwrap().trim());
        let shares = other["decision"]["probabilities"].as_object().unwrap().values();
        for (p, q) in one["eci"].as_array().unwrap().iter().zip(shares) {
            assert!((p.as_f64().unwrap() - q.as_f64().unwrap()).abs() < 1e-5, "{one} {other}");
            seen.insert(q.to_string());
        }
    }
    assert!(seen.len() > 12, "the labels of different questions differ: {seen:?}");
}

#[test]
fn a_file_of_answers_is_there_whole_or_not_at_all() {
    let bench = Bench::new();
    let rows: Vec<String> =
        (0..9).map(|i| json!({"id": i, "question": format!("Does {i} help?")}).to_string()).collect();
    bench.file("q.jsonl", &rows.join("\n"));
    let words = "--model @model --new-tokens 6 --in @q.jsonl";
    let lines = once(&bench, words, "");
    let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(once(&bench, &format!("{words} --out @a/answers.jsonl"), ""), Vec::<Value>::new());
    let written = std::fs::read_to_string(bench.path("a/answers.jsonl")).unwrap();
    assert_eq!(json_lines(&written), lines);
    assert_eq!(std::fs::read_dir(bench.path("a")).unwrap().count(), 1);
    let again = format!("--once {words} --out @a/answers.jsonl");
    assert_says(&refused(&bench, &again), &["a/answers.jsonl: this file already exists", "--overwrite"]);
    assert!(run(&bench, &format!("{again} --overwrite"), "").status.success());
    assert_says(&refused(&bench, &format!("--once {words} --out @a")), &["/a: --out names the file", "folder"]);
    // What cannot be read stops before anything is asked.
    bench.file("bad.jsonl", &format!("{}\n{{\"id\": 9, \"question\": \n", rows[0]));
    let sentence = refused(&bench, "--once --model @model --in @bad.jsonl --out @b/answers.jsonl");
    assert_says(&sentence, &["bad.jsonl, line 2, column ", "broken JSON"]);
    assert!(!bench.path("b").exists());
    let output =
        run(&bench, "--once --model @model", "{\"id\": 1, \"question\": \"q\"}\n{\"id\": 1, \"question\": \"r\"}");
    assert_says(&refusal(&output, 2), &["stdin: line 1 and line 2 have the same id \"1\""]);
    assert_says(&refusal(&run(&bench, "--once --model @model", " \n"), 2), &["stdin is empty"]);
    assert_says(
        &refusal(&run(&bench, "--once --model @model", "{\"title\": 1}"), 2),
        &["stdin: format not recognised"],
    );
}

#[test]
fn a_row_that_cannot_be_asked_gets_its_reason_and_the_others_are_answered() {
    let bench = Bench::new();
    let long = "long ".repeat(120);
    let rows = [
        json!({"id": "a", "question": "Why?"}),
        json!({"id": "b", "question": long}),
        json!({"id": "c", "question": "How?"}),
    ];
    let rows = rows.map(|row| row.to_string()).join("\n");
    let output = run(&bench, "--once --model @model --new-tokens 4 --out @answers.jsonl", &rows);
    assert_eq!(output.status.code(), Some(1));
    assert_says(
        &text(&output.stderr),
        &["2 of 3 questions: 8 tokens in ", "tokens/s) on CPU", "error: 1 of 3 questions could not be asked"],
    );
    let lines = json_lines(&std::fs::read_to_string(bench.path("answers.jsonl")).unwrap());
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["error"].is_null() && lines[0]["n_tokens"] == 4 && lines[2]["finish"] == "length", "{lines:?}");
    assert!(lines[1]["answer"].is_null() && lines[1]["notice"] == NOTICE, "{lines:?}");
    // 600 bytes, one a token, a line break and BOS.
    assert_says(
        lines[1]["error"].as_str().unwrap(),
        &["the question has 602 tokens", "there is room for 512", "shorten it"],
    );
    // The last question that has room for a token gets just that one.
    let most = json!({"id": "m", "question": "q".repeat(509)}).to_string();
    let lines = once(&bench, "--model @model --new-tokens 4", &most);
    assert!(lines[0]["n_prompt"] == 511 && lines[0]["n_tokens"].as_u64().unwrap() <= 1, "{}", lines[0]);
}

#[test]
fn a_line_that_is_too_long_ends_no_conversation() {
    let bench = Bench::new();
    let lines = format!("{}\nWhy?\n/nonsense\n", "long ".repeat(120));
    let output = run(&bench, "--model @model --new-tokens 12", &lines);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), said(&bench, "", "Why?"));
    let stderr = text(&output.stderr);
    assert_says(&stderr, &["error: the question has 601 tokens", "no command is called /nonsense; /help lists them"]);
    let output = run(&bench, "--model @model --new-tokens 12", &"What about that one then?\n".repeat(20));
    assert_says(
        &text(&output.stderr),
        &["tokens with all that stands before it", "begin another conversation with /new"],
    );
}

#[test]
fn an_answer_comes_piece_by_piece_and_ctrl_c_stops_it_alone() {
    let bench = endless();
    let mut child = piped(&bench, "--model @model --new-tokens 6000");
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "Does it help?").unwrap();
    // The first piece arrives while most of the answer is still to come, or the process could not be stopped below.
    let mut output = child.stdout.take().unwrap();
    output.read_exact(&mut [0; 8]).unwrap();
    let kill = |id: u32| {
        assert!(std::process::Command::new("kill").args(["-INT", &id.to_string()]).status().unwrap().success());
    };
    kill(child.id());
    writeln!(input, "/new\n/quit").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let ended = child.wait_with_output().unwrap();
    let stderr = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{stderr}");
    assert_says(&stderr, &["stopped; this question and its answer are forgotten", "a new conversation"]);
    assert!(rest.len() < 5000, "most of the answer was written: {} bytes", rest.len());
}

#[test]
fn what_cannot_be_used_is_refused_in_a_sentence() {
    let bench = Bench::new();
    let with = |words: &str| refused(&bench, &format!("--model @model {words}"));
    assert_says(&refused(&bench, ""), &["which base?", "--model DIR", "--adapter DIR"]);
    assert_says(&with("--template nothing"), &["no template is called \"nothing\"; there are direct, "]);
    assert_says(&with("--label yes,no"), &["no label set \"yes,no\": this model was not trained to decide anything"]);
    assert_says(&with("--context @none.txt"), &["none.txt: no such file"]);
    assert_says(&with("--new-tokens 0"), &["--new-tokens 0 asks for labels alone, and no ECI head is asked"]);
    assert_says(&with("--once --in @none.jsonl"), &["none.jsonl: no such file"]);
    for (flag, name) in [
        ("--temperature -1", "temperature"),
        ("--temperature nan", "temperature"),
        ("--top-p 0", "top"),
        ("--top-p 1.5", "top"),
        ("--repetition-penalty 0", "repetition"),
        ("--repetition-penalty inf", "repetition"),
    ] {
        assert_says(&with(flag), &[name]);
    }
    let output = run(&bench, "--model @model --once", "\u{0}");
    assert_eq!(output.status.code(), Some(2));
    let output =
        Command::from_std(command(&bench, "--model @model")).write_stdin(vec![b'a', 0xff, b'\n']).output().unwrap();
    assert_says(&text(&output.stderr), &["error: standard input is not UTF-8"]);
}

#[test]
fn an_adapter_that_does_not_belong_or_is_half_written_is_refused() {
    let bench = Bench::new();
    bench.trained("a", "--eci paper --eci-positions 260");
    let weights = bench.path("a/adapter_model.safetensors");
    // The head has room for so many tokens of a prompt.
    let lines = format!("{{\"id\": \"x\", \"question\": \"{}\"}}", "long ".repeat(60));
    let output = run(&bench, "--once --adapter @a --new-tokens 2", &lines);
    assert_eq!(output.status.code(), Some(1));
    assert_says(&text(&output.stdout), &["\"error\":\"the question has ", "has room for 260", "ask without a label"]);
    assert!(run(&bench, "--once --adapter @a --new-tokens 2 --label none", &lines).status.success());
    let row = "{\"id\": \"x\", \"question\": \"Q?\", \"options\": {\"A\": \"one\", \"B\": \"two\"}}";
    let output = run(&bench, "--once --adapter @a --new-tokens 2 --label maybe,no,yes", row);
    assert_says(
        &text(&output.stdout),
        &["\"error\":\"the question has the options A, B, the label set maybe-no-yes decides"],
    );
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    assert_says(&refused(&bench, "--adapter @a"), &["/a/adapter_model.safetensors"]);
    std::fs::remove_file(&weights).unwrap();
    assert_says(&refused(&bench, "--adapter @a"), &["/a", "adapter_model.safetensors"]);
    std::fs::write(&weights, &whole).unwrap();
    bench.edit_tensors(|tensors| tensors.get_mut("model.norm.weight").unwrap().2[1] ^= 1);
    assert_says(&refused(&bench, "--adapter @a"), &["/a: this adapter was trained on another base than"]);
    std::fs::remove_file(bench.path("model/model.safetensors")).unwrap();
    assert_says(&refused(&bench, "--model @model"), &["/model", "safetensors"]);
}
