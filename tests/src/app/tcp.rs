//! Applications that speak no HTTP.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends back what it gets, and after the client's half-close `bye COUNT`. An error ends the connection: the client notices.
pub(crate) async fn echo(mut stream: TcpStream) {
    if let Some(total) = copy_back(&mut stream).await {
        let _ = stream.write_all(format!("bye {total}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}

/// Greets before the client has said anything, then sends back what it gets.
pub(crate) async fn server_first(mut stream: TcpStream, greeting: &str) {
    if stream.write_all(greeting.as_bytes()).await.is_ok() {
        copy_back(&mut stream).await;
    }
}

/// Reads something, answers with what it was told to, closes.
pub(super) async fn rude(mut stream: TcpStream, answer: &[u8]) {
    let mut buffer = [0; 4096];
    let _ = stream.read(&mut buffer).await;
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
}

/// Bytes copied until the client's half-close; `None` when the connection broke.
async fn copy_back(stream: &mut TcpStream) -> Option<usize> {
    let (mut buffer, mut total) = (vec![0; 16 * 1024], 0);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return Some(total),
            Ok(count) => {
                stream.write_all(&buffer[..count]).await.ok()?;
                total += count;
            }
            Err(_) => return None,
        }
    }
}
