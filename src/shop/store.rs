//! The store: counters by name.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};

use super::{Answer, answer, serve};

/// What looking something up takes.
const SERVICE_TIME: Duration = Duration::from_millis(2);
/// Counters at most.
const KEYS: usize = 1000;

type Counters = Arc<Mutex<BTreeMap<String, u64>>>;

/// `POST /KEY` counts one more and tells the number; `GET /KEY` tells it.
///
/// # Errors
/// When the port cannot be had.
pub async fn store(port: u16) -> io::Result<()> {
    let counters = Counters::default();
    serve(port, move |request| look_up(Arc::clone(&counters), request)).await
}

async fn look_up(counters: Counters, request: Request<Incoming>) -> Answer {
    tokio::time::sleep(SERVICE_TIME).await;
    let mut counters = match counters.lock() {
        Ok(counters) => counters,
        Err(poisoned) => poisoned.into_inner(),
    };
    let key = request.uri().path();
    match *request.method() {
        Method::POST if counters.contains_key(key) || counters.len() < KEYS => {
            let count = counters.entry(key.to_owned()).or_default();
            *count += 1;
            answer(StatusCode::OK, count.to_string())
        }
        Method::GET => match counters.get(key) {
            Some(count) => answer(StatusCode::OK, count.to_string()),
            None => answer(StatusCode::NOT_FOUND, "never counted\n"),
        },
        _ => answer(StatusCode::INSUFFICIENT_STORAGE, "full\n"),
    }
}
