//! Routers of axum, without a runtime of tokio.

use axum::Router;
use axum::extract::{Path, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::StatusCode;
use hyper_util::service::TowerToHyperService;
use tidegate::EngineChoice;
use tidegate_hyper::{Http, ListenHttp, context};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

use crate::harness::{Running, any_port, ask, builder};
use crate::upgrades::{converse, websocket_echo};

/// What axum's own `ws` would do, without `tokio::spawn`.
async fn websocket(mut request: Request) -> Response {
    let Ok(response) = create_response_with_body(&request, axum::body::Body::empty) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let spawned = context().map(|context| {
        context.spawn_local(async move {
            if let Ok(upgraded) = upgrade.await {
                websocket_echo(upgraded).await;
            }
        })
    });
    match spawned {
        Some(Ok(_)) => response,
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[test]
fn a_router_routes_and_upgrades_to_websocket() {
    let router = Router::new()
        .route("/hello/{name}", get(|Path(name): Path<String>| async move { format!("hello {name}") }))
        .route("/socket", get(websocket));
    let server = builder().listen_http(any_port(), Http::new(), move |_| TowerToHyperService::new(router.clone()));
    let running = Running::start(server, EngineChoice::Auto);
    let mut stream = running.connect();
    let (_, body) = ask(&mut stream, "GET /hello/tides HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(body, "hello tides");
    let (head, _) = ask(&mut stream, "GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(head.starts_with("http/1.1 404"), "{head}");
    converse(&running, "/socket");
}
