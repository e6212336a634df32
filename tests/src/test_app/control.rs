//! The control page of a running program: one word per request, on loopback only.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use http::{Response, StatusCode};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::body;
use crate::client::{Connection, request};

/// Serves the page until the process ends. `answer` gets the word and gives the text, or nothing when it does not know the
/// word.
///
/// # Errors
///
/// When the port is taken.
pub(super) async fn serve<F>(port: u16, answer: impl Fn(String) -> F + Clone + Send + Sync + 'static) -> Result<(), String>
where
    F: Future<Output = Option<String>> + Send + 'static,
{
    if port == 0 {
        return Ok(());
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("the control page cannot listen on {address}: {error}; a second program in the pod needs --control of its own")
    })?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let answer = answer.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answered = answer(request.uri().path().trim_matches('/').to_owned());
                async move {
                    let answered = answered.await;
                    let status = if answered.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                    let mut response = Response::new(body::full(answered.unwrap_or_else(|| "no such word\n".to_owned())));
                    *response.status_mut() = status;
                    Ok::<_, Infallible>(response)
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(())
}

/// Says a word to the program in this pod and answers with what it said.
///
/// # Errors
///
/// When nobody listens or the word is unknown.
pub async fn tell(port: u16, word: &str) -> Result<String, String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream =
        tokio::net::TcpStream::connect(address).await.map_err(|error| format!("no control page on {address}: {error}"))?;
    let mut connection = Connection::over(stream, false).await?;
    let answer = connection.send(request(http::Method::GET, &format!("http://{address}/{word}"))).await?;
    if answer.status.is_success() { Ok(answer.text()) } else { Err(format!("{word}: {}", answer.text())) }
}
