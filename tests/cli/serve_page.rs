//! The page in a real browser: a question is asked, its answer comes, the label is shown; text is text; the stop button stops.
//!
//! Where there is no Chromium (named by CHROME, or found in PATH) this says so and passes. To look at the page:
//! `LLAMACARE_REPORT_SAMPLE=page.html cargo test the_page_in_a_browser` leaves page.light.png and others.

use super::assert_says;
use super::endless;
use super::serve::{Server, ask};
use headless_chrome::protocol::cdp::Emulation::{MediaFeature, SetDeviceMetricsOverride, SetEmulatedMedia};
use headless_chrome::protocol::cdp::Page::CaptureScreenshotFormatOption::Png;
use headless_chrome::{Browser, LaunchOptions, Tab};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

const QUESTION: &str =
    "Does <script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>Cardel & co. help?";
const CONTEXT: &str = "We gave Cardel to 20 people. Pain fell.";

/// The first of the usual names that is there.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROME").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome", "chrome"];
    let in_path = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    named.into_iter().chain(in_path).find(|path| path.is_file())
}

/// A page, driven by a hand that waits.
struct Page(Arc<Tab>);

impl Page {
    fn open(browser: &Browser, server: &Server) -> Page {
        let tab = browser.new_tab().expect("a tab");
        tab.set_default_timeout(Duration::from_secs(60));
        tab.navigate_to(&server.url("/")).and_then(|tab| tab.wait_until_navigated()).expect("the page");
        Page(tab)
    }

    /// The value of an expression.
    fn js(&self, expression: &str) -> Value {
        self.0.evaluate(expression, false).expect("an expression").value.unwrap_or(Value::Null)
    }

    /// What is seen of an element.
    fn text(&self, id: &str) -> String {
        self.js(&format!("document.getElementById('{id}').innerText")).as_str().expect("text").to_string()
    }

    fn fill(&self, id: &str, value: &str) {
        self.js(&format!("document.getElementById('{id}').value = {}", json!(value)));
    }

    fn click(&self, selector: &str) {
        self.0.find_element(selector).and_then(|element| element.click().map(drop)).expect("something to click");
    }

    #[track_caller]
    fn wait_until(&self, condition: &str) {
        let begun = Instant::now();
        while self.js(condition) != json!(true) {
            let state = self.js("document.body.innerText");
            assert!(begun.elapsed() < Duration::from_secs(60), "{condition} never came: {state}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A picture of the whole page, where somebody wants to see one.
    fn picture(&self, name: &str, scheme: &str, width: u32) {
        let Some(path) = std::env::var_os("LLAMACARE_REPORT_SAMPLE").map(PathBuf::from) else { return };
        let feature = MediaFeature { name: "prefers-color-scheme".into(), value: scheme.into() };
        self.0.call_method(SetEmulatedMedia { media: None, features: Some(vec![feature]) }).expect("a scheme");
        let metrics = |height| SetDeviceMetricsOverride {
            width,
            height,
            device_scale_factor: 2.0,
            mobile: width < 500,
            scale: None,
            screen_width: None,
            screen_height: None,
            position_x: None,
            position_y: None,
            dont_set_visible_size: None,
            screen_orientation: None,
            viewport: None,
            display_feature: None,
            device_posture: None,
        };
        self.0.call_method(metrics(800)).expect("a size");
        let height = self.js("document.documentElement.scrollHeight").as_u64().expect("a height");
        self.0.call_method(metrics(height as u32)).expect("a size");
        let picture = self.0.capture_screenshot(Png, None, None, true).expect("a picture");
        std::fs::write(path.with_extension(format!("{name}.png")), picture).expect("room on the disk");
    }
}

#[test]
fn the_page_in_a_browser() {
    let Some(path) = chromium() else {
        println!("skipped: no Chromium; name one with CHROME");
        return;
    };
    let bench = endless();
    bench.trained("a", "--eci mean --eci-dims 8");
    let server = Server::start(&bench, "--adapter @a --max-new-tokens 8000");
    let options = LaunchOptions {
        path: Some(path),
        // Containers run tests as root, whom the sandbox refuses.
        sandbox: false,
        window_size: Some((1000, 900)),
        idle_browser_timeout: Duration::from_secs(120),
        ..LaunchOptions::default()
    };
    let browser = Browser::new(options).expect("Chromium starts");
    let page = Page::open(&browser, &server);
    page.wait_until("document.getElementById('model').textContent === 'a'");
    page.picture("empty", "light", 1000);

    // Asked, answered, decided.
    page.click("#question");
    page.0.type_str(QUESTION).expect("keys");
    page.fill("context", CONTEXT);
    page.fill("max_tokens", "40");
    page.click("#ask");
    page.wait_until("!document.getElementById('ask').disabled && document.getElementById('facts').textContent !== ''");
    assert_eq!(page.text("error"), "");
    let body = ask(QUESTION, json!({"context": CONTEXT, "max_tokens": 40}));
    let answer = page.js("document.getElementById('answer').textContent");
    assert_eq!(answer, server.answer(&body));
    assert_eq!(page.js("document.getElementById('asked').textContent"), QUESTION);
    let (_, said) = server.post("/v1/chat/completions", &body);
    let label = said["llamacare"]["label"].as_str().expect("a label");
    assert_eq!(page.text("label"), format!("Label: {label}"));
    let bars = page.text("bars");
    for (label, p) in said["llamacare"]["probabilities"].as_object().expect("labels") {
        assert_says(&bars, &[label, &format!("{:.1} %", 100.0 * p.as_f64().expect("a number"))]);
    }
    assert_says(&page.text("status"), &["Cut off"]);
    assert_says(&page.text("facts"), &["40 written"]);
    // What was typed is text.
    assert_eq!(page.js("typeof window.hacked"), "undefined");
    assert_eq!(page.js("document.querySelectorAll('main script, main img').length"), 0);
    let notice = "document.querySelector('.notice')";
    assert!(page.js(&format!("{notice}.innerText")).as_str().expect("text").contains("no medical advice"));
    for (name, scheme, width) in
        [("light", "light", 1000), ("dark", "dark", 1000), ("phone", "light", 375), ("phone-dark", "dark", 375)]
    {
        page.picture(name, scheme, width);
    }

    // Stopped: the engine is told, and what was said stays.
    page.fill("max_tokens", "8000");
    page.fill("context", "");
    page.click("#ask");
    // Pressed as soon as it is seen: a busy machine takes seconds for each question to the browser.
    page.wait_until(
        "document.getElementById('answer').textContent.length > 20 \
         && document.getElementById('answer').getAttribute('aria-busy') === 'true' \
         && (document.getElementById('stop').click(), true)",
    );
    // However far one has scrolled, it is seen that this is no advice.
    page.js("window.scrollTo(0, document.body.scrollHeight)");
    let top = page.js(&format!("{notice}.getBoundingClientRect().top")).as_f64().expect("a place");
    assert!(top >= 0.0, "the notice is {top} px above the window");
    page.wait_until("document.getElementById('status').textContent.startsWith('Stopped')");
    server.wait_for("the cancellation", |health| health["cancelled"] == 1 && health["under_way"] == 0);
    assert!(page.text("answer").len() > 20);

    // Refused: the server's own sentence.
    page.fill("max_tokens", "9000");
    page.click("#ask");
    page.wait_until("document.getElementById('error').textContent !== ''");
    assert_says(&page.text("error"), &["max_tokens", "9000", "8000"]);

    // A server with a token: the page asks for it.
    let guarded = Server::start(&bench, "--model @model --token s3cret");
    let page = Page::open(&browser, &guarded);
    page.wait_until("!document.getElementById('token-row').hidden");
    page.picture("token", "light", 1000);
    page.click("#token");
    page.0.type_str("s3cret").expect("keys");
    page.fill("question", "Why?");
    page.fill("max_tokens", "5");
    page.click("#ask");
    page.wait_until("document.getElementById('facts').textContent.includes('5 written')");
    assert_eq!(page.js("document.getElementById('decision').hidden"), true);
}
