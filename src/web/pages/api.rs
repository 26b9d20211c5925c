//! What is answered to the page, as JSON (images apart). docs/runs.md describes it. Every answer is made
//! on a thread that may block; nothing is changed by any request.

use super::shelf::{Known, Shelf};
use crate::base::{Error, ErrorKind, Result};
use crate::runs::Run;
use crate::runs::compare::{differences, titles};
use crate::runs::view::details;
use crate::train::run_file::LOG_FILE;
use crate::web::server::refusal;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

/// Most points of a curve.
const POINTS: usize = 2000;
/// Points of a curve if nothing else is asked for.
const USUAL_POINTS: usize = 600;
/// Groups of samples in one answer.
const GROUPS: usize = 8;
/// Bytes of a log in one answer.
const LOG: u64 = 128 << 10;
/// Runs that can be compared at a time.
const COMPARED: usize = 12;

type Runs = State<Arc<Shelf>>;

/// Answers from a thread that may block.
async fn answer(make: impl FnOnce() -> Result<Response> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(make).await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => told(&e),
        Err(_) => refusal(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made", None),
    }
}

fn told(e: &Error) -> Response {
    let status = match e.kind() {
        ErrorKind::Usage => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, &e.one_line(), None)
}

fn json_of(value: &impl serde::Serialize) -> Result<Response> {
    let value = serde_json::to_value(value)
        .map_err(|e| Error::internal(format!("the answer is no JSON: {e}")))?;
    Ok(Json(value).into_response())
}

/// `GET /api/runs`: every run.
pub async fn runs(State(shelf): Runs) -> Response {
    answer(move || {
        let entries = shelf.runs()?.iter().map(listed).collect::<Result<Vec<Value>>>()?;
        json_of(&json!({"root": shelf.root().display().to_string(), "runs": entries}))
    })
    .await
}

/// An entry of the list with its key.
fn listed(known: &Known) -> Result<Value> {
    let mut entry = serde_json::to_value(&known.entry)
        .map_err(|e| Error::internal(format!("a run is no JSON: {e}")))?;
    entry["key"] = known.key.clone().into();
    Ok(entry)
}

/// `GET /api/runs/{key}`: everything of one run but its curves.
pub async fn run(State(shelf): Runs, Path(key): Path<String>) -> Response {
    answer(move || {
        let known = shelf.run(&key)?;
        let details = shelf
            .figures(&known.run, |curves| details(&known.run, known.entry.clone(), curves))??;
        let mut value = serde_json::to_value(&details)
            .map_err(|e| Error::internal(format!("a run is no JSON: {e}")))?;
        value["entry"] = listed(&known)?;
        json_of(&value)
    })
    .await
}

/// Which figures, and how many points of them.
#[derive(Deserialize)]
pub struct Wanted {
    /// JSON list of names; all if it is missing.
    names: Option<String>,
    /// Points.
    points: Option<usize>,
}

/// `GET /api/runs/{key}/metrics?names=["reward"]&points=600`: curves.
pub async fn metrics(
    State(shelf): Runs,
    Path(key): Path<String>,
    Query(q): Query<Wanted>,
) -> Response {
    answer(move || {
        let run = shelf.run(&key)?.run;
        let names: Option<Vec<String>> =
            match &q.names {
                Some(text) => Some(serde_json::from_str(text).map_err(|e| {
                    Error::usage("`names` is no list of names").found(e.to_string())
                })?),
                None => None,
            };
        let points = q.points.unwrap_or(USUAL_POINTS).clamp(1, POINTS);
        let thin = shelf.figures(&run, |curves| {
            let all = names.as_deref().unwrap_or(curves.names());
            curves.thin(&all.iter().map(String::as_str).collect::<Vec<_>>(), points)
        })?;
        json_of(&thin)
    })
    .await
}

/// Which groups.
#[derive(Deserialize)]
pub struct From {
    /// The first, counted from the newest.
    from: Option<usize>,
}

/// `GET /api/runs/{key}/samples?from=0`: groups of completions, the newest first.
pub async fn samples(
    State(shelf): Runs,
    Path(key): Path<String>,
    Query(q): Query<From>,
) -> Response {
    answer(move || {
        let run = shelf.run(&key)?.run;
        let all = shelf.samples(&run)?;
        let newest = all.iter().enumerate().rev().skip(q.from.unwrap_or(0)).take(GROUPS);
        let groups: Vec<Value> = newest
            .map(|(index, g)| {
                json!({
                    "index": index, "step": g.step, "prompt": g.prompt, "answer": g.answer,
                    "images": g.images_png.len(), "completions": g.completions,
                })
            })
            .collect();
        json_of(&json!({"total": all.len(), "groups": groups}))
    })
    .await
}

/// `GET /api/runs/{key}/samples/{group}/images/{image}`: a PNG file.
pub async fn image(
    State(shelf): Runs,
    Path((key, group, image)): Path<(String, usize, usize)>,
) -> Response {
    answer(move || {
        let run = shelf.run(&key)?.run;
        let all = shelf.samples(&run)?;
        let found = all.get(group).and_then(|g| g.images_png.get(image));
        // Whatever else the file holds is not shown as an image of this site.
        let png = found.filter(|bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
        let png = png.ok_or_else(|| Error::usage("there is no such image"))?;
        Ok(([(header::CONTENT_TYPE, "image/png")], png.clone()).into_response())
    })
    .await
}

/// From where in a log.
#[derive(Deserialize)]
pub struct After {
    /// Bytes that the page has.
    after: Option<u64>,
}

/// `GET /api/runs/{key}/log?after=0`: the end of the log, or what came after the bytes that are known.
pub async fn log(State(shelf): Runs, Path(key): Path<String>, Query(q): Query<After>) -> Response {
    answer(move || {
        let run = shelf.run(&key)?.run;
        let (text, from, next) = piece_of_log(&run, q.after)?;
        json_of(&json!({"text": text, "from": from, "next": next}))
    })
    .await
}

/// Text, where it begins, where the next piece does. A log that became shorter is told from its start.
fn piece_of_log(run: &Run, after: Option<u64>) -> Result<(String, u64, u64)> {
    let path = run.dir.join(LOG_FILE);
    let fail = |e: std::io::Error| Error::io("cannot read the log", &path, &e);
    let mut file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(e) => return Err(fail(e)),
    };
    let length = file.metadata().map_err(fail)?.len();
    let known = after.filter(|a| *a <= length).unwrap_or(0);
    let from = known.max(length.saturating_sub(LOG));
    file.seek(SeekFrom::Start(from)).map_err(fail)?;
    let mut bytes = Vec::new();
    file.take(length - from).read_to_end(&mut bytes).map_err(fail)?;
    let next = from + bytes.len() as u64;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), from, next))
}

/// Which runs.
#[derive(Deserialize)]
pub struct Several {
    /// Keys, separated by commas.
    runs: String,
}

/// `GET /api/compare?runs=k1,k2`: settings that differ. The page asks for the curves of each run.
pub async fn compare(State(shelf): Runs, Query(q): Query<Several>) -> Response {
    answer(move || {
        let keys = q.runs.split(',').filter(|k| !k.is_empty()).take(COMPARED);
        let known = keys.map(|key| shelf.run(key)).collect::<Result<Vec<Known>>>()?;
        let entries = known.iter().map(listed).collect::<Result<Vec<Value>>>()?;
        let runs: Vec<Run> = known.into_iter().map(|k| k.run).collect();
        let names: Vec<Vec<String>> = runs
            .iter()
            .map(|run| shelf.figures(run, |c| c.names().to_vec()))
            .collect::<Result<_>>()?;
        json_of(&json!({
            "runs": entries, "titles": titles(&runs), "settings": differences(&runs), "names": names,
        }))
    })
    .await
}

/// Everything else.
pub async fn nothing() -> Response {
    refusal(StatusCode::NOT_FOUND, "there is nothing here", None)
}
