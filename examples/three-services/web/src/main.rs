//! What people see: axum in front, reqwest to the API behind. `web ADDRESS API`
//!
//! `web put URL TEXT` gives the API an item. `web load URL REQUESTS` asks for a page so often and says what it got and how fast.

mod load;

use std::error::Error;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["load", url, requests] => load::drive(url, requests.parse()?).await,
        ["put", url, text] => load::put(url, text).await,
        [address, api] => serve(address, api).await,
        _ => Err("usage: web ADDRESS API, or web put URL TEXT, or web load URL REQUESTS".into()),
    }
}

async fn serve(address: &str, api: &str) -> Result<(), Box<dyn Error>> {
    let api = Api { client: reqwest::Client::new(), url: format!("http://{api}") };
    let web = Router::new().route("/{item}", get(page)).with_state(api);
    let listener = TcpListener::bind(address).await?;
    println!("web: listening on {}", listener.local_addr()?);
    Ok(axum::serve(listener, web).await?)
}

#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    url: String,
}

async fn page(State(api): State<Api>, Path(item): Path<String>) -> Result<Html<String>, (StatusCode, String)> {
    let broken = |error: reqwest::Error| (StatusCode::BAD_GATEWAY, format!("the API: {error}\n"));
    let answer = api.client.get(format!("{}/items/{item}", api.url)).send().await.map_err(broken)?;
    let status = answer.status();
    let text = answer.text().await.map_err(broken)?;
    if !status.is_success() {
        return Err((StatusCode::from_u16(status.as_u16()).unwrap_or(StatusCode::BAD_GATEWAY), text));
    }
    Ok(Html(format!("<h1>{item}</h1>\n<p>{}</p>\n", text.trim_end())))
}
