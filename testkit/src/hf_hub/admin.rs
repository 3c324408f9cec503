//! The same controls over HTTP, below `/_admin/` of the hub's origin, for tests that are not written in Rust:
//!
//! ```text
//! GET  /_admin/log                 the requests so far, as JSON; DELETE forgets them
//! POST /_admin/fault               {"kind":"truncate","after":1000,"side":"cdn","path":"*","times":1,"skip":0}
//! DELETE /_admin/fault             takes all faults away
//! POST /_admin/ref                 {"kind":"models","id":"org/name","branch":"main","commit":"<40 hex>"}
//! ```

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};

use super::{
    State,
    answer::{Asked, Reply},
    fault::{Fault, FaultKind},
    lock,
    repo::RepoKind,
};

pub(super) fn answer(state: &State, asked: &Asked, what: &str) -> Reply {
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    let done = match (what, &asked.method) {
        ("log", &Method::GET) => return log(state),
        ("log", &Method::DELETE) => {
            lock(&state.log).clear();
            Some(())
        }
        ("fault", &Method::POST) => fault(&body).map(|fault| lock(&state.faults).push(fault)),
        ("fault", &Method::DELETE) => {
            lock(&state.faults).clear();
            Some(())
        }
        ("ref", &Method::POST) => set_ref(state, &body),
        _ => None,
    };
    match done {
        Some(()) => Reply::json(&json!({})),
        None => Reply::error(400, None, "Not understood"),
    }
}

fn log(state: &State) -> Reply {
    let entries: Vec<Value> = lock(&state.log)
        .iter()
        .map(|request| {
            json!({
                "side": format!("{:?}", request.side).to_lowercase(),
                "method": request.method,
                "target": request.target,
                "what": request.what,
                "authorization": request.authorization,
                "range": request.range,
                "accept_encoding": request.accept_encoding,
                "user_agent": request.user_agent,
                "faults": request.faults(),
                "status": request.status(),
                "sent_bytes": request.sent_bytes(),
            })
        })
        .collect();
    Reply::json(&Value::Array(entries))
}

fn fault(body: &Value) -> Option<Fault> {
    let number = |key: &str| body[key].as_u64();
    let text = |key: &str| body[key].as_str().map(str::to_owned);
    let seconds = || body["seconds"].as_f64().map(Duration::from_secs_f64);
    let kind = match body["kind"].as_str()? {
        "status" => FaultKind::Status(u16::try_from(number("status")?).ok()?),
        "ratelimit" => FaultKind::RateLimit { seconds: number("seconds")? },
        "delay" => FaultKind::Delay(seconds()?),
        "slow" => FaultKind::Slow { rate: number("rate")? },
        "truncate" => FaultKind::Truncate { after: number("after")? },
        "stall" => FaultKind::Stall { after: number("after")? },
        "reset" => FaultKind::Reset { after: number("after") },
        "wronglen" => FaultKind::WrongLength(body["by"].as_i64()?),
        "nolength" => FaultKind::NoLength,
        "corrupt" => FaultKind::Corrupt { at: number("at")? },
        "hold" => FaultKind::Hold { at: number("at")? },
        "norange" => FaultKind::NoRange,
        "badrange" => FaultKind::BadRange { by: number("by")? },
        "redirect" => FaultKind::Redirect(text("location")?),
        "loop" => FaultKind::RedirectLoop,
        "noetag" => FaultKind::NoEtag,
        "header" => FaultKind::Header(text("name")?, text("value")?),
        "page" => FaultKind::Page(text("html")?),
        _ => return None,
    };
    let mut fault = match body["side"].as_str() {
        Some("hub") => Fault::hub(kind),
        Some("cdn") => Fault::cdn(kind),
        _ => Fault::new(kind),
    };
    if let Some(path) = body["path"].as_str() {
        fault = fault.path(path);
    }
    if let Some(method) = body["method"].as_str() {
        fault = fault.method(method);
    }
    if let Some(times) = number("times").and_then(|times| u32::try_from(times).ok()) {
        fault = fault.times(times);
    }
    Some(fault.skip(number("skip").and_then(|skip| u32::try_from(skip).ok()).unwrap_or(0)))
}

fn set_ref(state: &State, body: &Value) -> Option<()> {
    let kind = RepoKind::ALL.into_iter().find(|kind| Some(kind.api()) == body["kind"].as_str())?;
    let mut repos = lock(&state.repos);
    let repo = repos.iter_mut().find(|repo| repo.kind == kind && Some(&*repo.id) == body["id"].as_str())?;
    let commit = body["commit"].as_str().filter(|commit| repo.commits.contains_key(*commit))?;
    repo.refs.insert(format!("refs/heads/{}", body["branch"].as_str()?), commit.to_owned());
    Some(())
}
