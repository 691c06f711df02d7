//! A small JSON API with axum: notes that can be written, read, searched and torn up. There is no runtime of tokio: the router runs on the
//! I/O threads of Tidegate.
//!
//! ```console
//! $ cargo run --release -p tidegate-hyper --example axum_api -- 127.0.0.1:8080
//! $ curl -X POST http://127.0.0.1:8080/notes -H 'content-type: application/json' -d '{"text": "high tide at six"}'
//! $ curl http://127.0.0.1:8080/notes/1
//! $ curl 'http://127.0.0.1:8080/notes?contains=tide'
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tidegate::{Limits, Listener, Server};
use tidegate_hyper::{Http, ListenHttp};

/// What all requests share, on all I/O threads.
#[derive(Default)]
struct Notes {
    texts: BTreeMap<u64, String>,
    last: u64,
}

type Shared = Arc<Mutex<Notes>>;

/// So many notes are kept: what a server holds is bounded.
const NOTES_MAX: usize = 10_000;

#[derive(Deserialize)]
struct NewNote {
    text: String,
}

#[derive(Serialize)]
struct Note {
    number: u64,
    text: String,
}

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    contains: String,
}

async fn write(
    State(notes): State<Shared>,
    Json(new): Json<NewNote>,
) -> Result<(StatusCode, Json<Note>), (StatusCode, String)> {
    let mut notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    if notes.texts.len() == NOTES_MAX {
        return Err((StatusCode::INSUFFICIENT_STORAGE, format!("there are {NOTES_MAX} notes: tear some up\n")));
    }
    notes.last += 1;
    let number = notes.last;
    notes.texts.insert(number, new.text.clone());
    Ok((StatusCode::CREATED, Json(Note { number, text: new.text })))
}

async fn read(State(notes): State<Shared>, Path(number): Path<u64>) -> Result<Json<Note>, StatusCode> {
    let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    let text = notes.texts.get(&number).ok_or(StatusCode::NOT_FOUND)?;
    Ok(Json(Note { number, text: text.clone() }))
}

async fn search(State(notes): State<Shared>, Query(search): Query<Search>) -> Json<Vec<Note>> {
    let notes = notes.lock().unwrap_or_else(PoisonError::into_inner);
    let found = notes.texts.iter().filter(|(_, text)| text.contains(&search.contains));
    Json(found.take(100).map(|(&number, text)| Note { number, text: text.clone() }).collect())
}

async fn tear_up(State(notes): State<Shared>, Path(number): Path<u64>) -> StatusCode {
    let removed = notes.lock().unwrap_or_else(PoisonError::into_inner).texts.remove(&number);
    if removed.is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address: SocketAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:8080").parse()?;
    let router = Router::new()
        .route("/notes", get(search).post(write))
        .route("/notes/{number}", get(read).delete(tear_up))
        // What a request may make the server keep beyond what HTTP takes itself.
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(Shared::default());
    let limits = Limits { max_connections: 1_000, ..Limits::default() };
    let bound = Server::builder()
        .limits(limits)
        // axum's futures and the body that it collects: what the service takes is the service's to declare.
        .listen_http(Listener::tcp(address).reserve(128 << 10), Http::new(), move |_connection| {
            TowerToHyperService::new(router.clone())
        })
        .bind()?;
    println!("listening on {}", bound.local_addrs()[0]);
    bound.run()?;
    Ok(())
}
