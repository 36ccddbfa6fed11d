//! The API: axum in front, redis to the store behind. `api ADDRESS STORE`

use std::error::Error;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(store)) = (arguments.next(), arguments.next()) else {
        return Err("usage: api ADDRESS STORE".into());
    };
    let store = redis::Client::open(format!("redis://{store}"))?.get_multiplexed_async_connection().await?;
    let api =
        Router::new().route("/health", get(async || "ok")).route("/items/{name}", put(set).get(view)).with_state(store);
    let listener = TcpListener::bind(&address).await?;
    println!("api: listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, api).await?)
}

type Answer = Result<String, (StatusCode, String)>;

async fn set(State(mut store): State<MultiplexedConnection>, Path(name): Path<String>, text: String) -> Answer {
    store.set::<_, _, ()>(&name, text).await.map_err(broken)?;
    Ok(format!("{name} is set\n"))
}

/// The text of an item, and how often it has been looked at.
async fn view(State(mut store): State<MultiplexedConnection>, Path(name): Path<String>) -> Answer {
    let text: Option<String> = store.get(&name).await.map_err(broken)?;
    let Some(text) = text else { return Err((StatusCode::NOT_FOUND, format!("there is no {name}\n"))) };
    let views: u64 = store.incr(format!("views of {name}"), 1).await.map_err(broken)?;
    Ok(format!("{text}, seen {views} times\n"))
}

fn broken(error: redis::RedisError) -> (StatusCode, String) {
    (StatusCode::BAD_GATEWAY, format!("the store: {error}\n"))
}
