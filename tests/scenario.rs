//! Scenarios: journeys of several steps, against servers that remember.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod looking;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brownout::base::Clock;
use brownout::probe::{AnyProbe, Setting, look_once};
use brownout::slo::Outcome;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use looking::{GOOD, bad, look, prober, seen, server};

/// What a shop was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// A shop: `/login` gives a token, `/orders` wants it and gives a number, which can be deleted; `/stuck` never answers.
async fn shop() -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    let address = server(move |stream, _| {
        let heard = Arc::clone(&heard);
        async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let what = format!("{} {}", request.method(), request.uri());
                heard.lock().unwrap().push(what.clone());
                async move {
                    let (status, body) = match what.as_str() {
                        "POST /login" => (200, r#"{"user": {"token": "t-1", "id": 7}}"#),
                        "GET /orders?token=t-1&user=7" => (200, "order id=31337 is yours"),
                        "DELETE /orders/31337" => (204, ""),
                        "GET /stuck" => std::future::pending().await,
                        _ => (404, "no"),
                    };
                    let body = Full::new(Bytes::from_static(body.as_bytes()));
                    Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
                }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        }
    })
    .await;
    (address, asked)
}

fn login(shop: SocketAddr) -> String {
    format!(
        "[[steps]]\nname = 'login'\nhttp = {{ url = 'http://{shop}/login', method = 'POST' }}\n\
         capture = {{ token = '$.user.token', user = '$.user.id' }}\n"
    )
}

fn order(shop: SocketAddr) -> String {
    format!(
        "[[steps]]\nname = 'order'\n\
         http = {{ url = 'http://{shop}/orders?token=${{step.token}}&user=${{step.user}}' }}\n\
         capture = {{ order = 'id=([0-9]+)' }}\n"
    )
}

fn cancel(shop: SocketAddr) -> String {
    format!(
        "[[steps]]\nname = 'cancel'\nalways = true\n\
         http = {{ url = 'http://{shop}/orders/${{step.order}}', method = 'DELETE' }}\n"
    )
}

fn step(name: &str, url: &str) -> String {
    format!("[[steps]]\nname = '{name}'\nhttp = {{ url = '{url}' }}\n")
}

const LOGIN: &str = "POST /login";
const ORDER: &str = "GET /orders?token=t-1&user=7";
const CANCEL: &str = "DELETE /orders/31337";

#[tokio::test]
async fn each_step_has_what_the_ones_before_it_captured_and_its_own_time() {
    let (shop, asked) = shop().await;
    let journey = prober("scenario", &[login(shop), order(shop), cancel(shop)].concat());
    let seen = look(&journey).await;
    assert_eq!(seen.sample.outcome, Outcome::Good, "{:?}", seen.sample.why);
    assert_eq!(*asked.lock().unwrap(), [LOGIN, ORDER, CANCEL]);
    let steps: Vec<(&str, bool)> = seen.steps.iter().map(|step| (step.name.as_str(), step.good)).collect();
    assert_eq!(steps, [("login", true), ("order", true), ("cancel", true)]);
    assert!(seen.steps.iter().map(|step| step.took).sum::<Duration>() <= seen.sample.latency());
}

#[tokio::test]
async fn the_first_step_that_fails_is_named_and_what_must_be_cleaned_up_is() {
    let (shop, asked) = shop().await;
    let lost = step("pay", &format!("http://{shop}/pay"));
    let journey = prober("scenario", &[login(shop), order(shop), lost, cancel(shop)].concat());
    assert_eq!(seen(&journey).await, bad("step `pay`: status 404, expected 2xx"));
    assert_eq!(*asked.lock().unwrap(), [LOGIN, ORDER, "GET /pay", CANCEL]);

    // Nothing was ordered, so nothing is cancelled.
    asked.lock().unwrap().clear();
    let lost = step("browse", &format!("http://{shop}/browse"));
    let journey = prober("scenario", &[lost, login(shop), order(shop), cancel(shop)].concat());
    assert_eq!(seen(&journey).await, bad("step `browse`: status 404, expected 2xx"));
    assert_eq!(*asked.lock().unwrap(), ["GET /browse"]);
}

#[tokio::test]
async fn a_journey_that_is_over_before_its_end_still_cleans_up() {
    let (shop, asked) = shop().await;
    let text =
        [login(shop), order(shop), step("wait", &format!("http://{shop}/stuck")), cancel(shop)].concat();
    let timeout = Duration::from_secs(2);
    let setting =
        Setting { directory: Path::new("/").to_owned(), timeout, facts: false, whom: None, from: None };
    let journey = AnyProbe::from_toml("scenario", &text).unwrap().prober(&setting).unwrap();
    let seen = look_once(0, &journey, &Clock::start(), timeout).await;
    assert_eq!(seen.sample.why.as_deref(), Some("no answer within 2 s"));
    while !asked.lock().unwrap().iter().any(|what| what == CANCEL) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_is_not_in_an_answer_is_told_and_any_probe_can_be_a_step() {
    let (shop, _) = shop().await;
    let wrong = format!(
        "[[steps]]\nname = 'login'\nhttp = {{ url = 'http://{shop}/login', method = 'POST' }}\n\
         capture = {{ token = '$.token' }}\n"
    );
    assert_eq!(
        seen(&prober("scenario", &wrong)).await,
        bad(
            r#"step `login`: `token` is not in the answer, which begins `{"user": {"token": "t-1", "id": 7}}`"#
        )
    );
    let mixed = "[[steps]]\nname = 'ask'\nexec = { run = ['echo', 'port 17'] }\ncapture = { port = 'port (.*)' }\n\
                 [[steps]]\nname = 'say'\nexec = { run = ['echo', 'it is ${step.port}'], expect = { stdout = 'it is 17' } }\n";
    assert_eq!(seen(&prober("scenario", mixed)).await, GOOD);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |text: &str| AnyProbe::from_toml("scenario", text).unwrap_err();
    for (text, words) in [
        ("steps = []", "a scenario without steps does nothing"),
        ("[[steps]]\nname = 'a'", "a step has no probe"),
        ("[[steps]]\nname = 'a'\nexec = { run = ['a'] }\ntcp = { address = 'a:1' }", "more than one probe"),
        ("[[steps]]\nname = 'a'\nscenario = { steps = [] }", "`scenario` is no probe that a step can be"),
        ("[[steps]]\nname = 'a'\nhtpp = { url = 'http://a/' }", "`htpp` is no probe that a step can be"),
        ("[[steps]]\nname = 'a'\nhttp = { url = 'a' }", "`a` is not a URL"),
        ("[[steps]]\nname = 'a'\nexec = { run = ['a'], wait = 1 }", "`wait`"),
        (
            "[[steps]]\nname = 'a'\nexec = { run = ['${step.b}'] }\ncapture = { b = 'b' }",
            "step `a` needs `${step.b}`, which no step before it captures",
        ),
        ("[[steps]]\nname = 'a'\nexec = { run = ['a'] }\ncapture = { b = '$[' }", "`$[` is not a JSON path"),
        (
            "[[steps]]\nname = 'a'\nexec = { run = ['a'] }\n[[steps]]\nname = 'a'\nexec = { run = ['a'] }",
            "two steps are called `a`",
        ),
    ] {
        let told = refused(text);
        assert!(told.contains(words), "{text}\n{told}");
    }
}
