//! The store: a few commands of Redis, in memory. `store ADDRESS`

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};

type Values = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

/// Words of a command, and bytes of one word.
const WORDS_MAX: usize = 16;
const WORD_MAX: usize = 1 << 20;

#[tokio::main]
async fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".into());
    let listener = TcpListener::bind(&address).await?;
    println!("store: listening on {}", listener.local_addr()?);
    let values = Values::default();
    loop {
        let (stream, peer) = listener.accept().await?;
        let values = values.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, values).await {
                eprintln!("store: {peer}: {error}");
            }
        });
    }
}

async fn serve(mut stream: TcpStream, values: Values) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.split();
    let (mut read, mut write) = (BufReader::new(read), BufWriter::new(write));
    while let Some(words) = command(&mut read).await? {
        answer(&words, &values, &mut write).await?;
        // A pipeline is answered at once.
        if read.buffer().is_empty() {
            write.flush().await?;
        }
    }
    Ok(())
}

/// The next command: an array of strings, or nothing at the end.
async fn command(read: &mut (impl AsyncBufReadExt + Unpin)) -> io::Result<Option<Vec<Vec<u8>>>> {
    let Some(count) = number(read, b'*', WORDS_MAX).await? else { return Ok(None) };
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let length = number(read, b'$', WORD_MAX).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut word = vec![0; length + 2];
        read.read_exact(&mut word).await?;
        word.truncate(length);
        words.push(word);
    }
    Ok(Some(words))
}

/// A line such as `*3`, or nothing at the end.
async fn number(read: &mut (impl AsyncBufReadExt + Unpin), kind: u8, max: usize) -> io::Result<Option<usize>> {
    let mut line = Vec::new();
    if read.take(32).read_until(b'\n', &mut line).await? == 0 {
        return Ok(None);
    }
    let digits = line.strip_prefix(&[kind]).and_then(|rest| rest.strip_suffix(b"\r\n"));
    let number = digits.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok()).filter(|n| *n <= max);
    number.map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a command of Redis"))
}

async fn answer(words: &[Vec<u8>], values: &Values, write: &mut (impl AsyncWriteExt + Unpin)) -> io::Result<()> {
    let name = words.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
    let reply = match (name.as_slice(), &words[1.min(words.len())..]) {
        (b"PING", []) => b"+PONG\r\n".to_vec(),
        (b"SET", [key, value]) => {
            locked(values).insert(key.clone(), value.clone());
            b"+OK\r\n".to_vec()
        }
        (b"GET", [key]) => locked(values).get(key).map_or_else(|| b"$-1\r\n".to_vec(), |value| bulk(value)),
        (b"INCR", [key]) => increased(&mut locked(values), key, 1),
        (b"INCRBY", [key, by]) => number_in(by).map_or_else(not_a_number, |by| increased(&mut locked(values), key, by)),
        _ => b"-ERR unknown command\r\n".to_vec(),
    };
    write.write_all(&reply).await
}

fn increased(values: &mut HashMap<Vec<u8>, Vec<u8>>, key: &[u8], by: i64) -> Vec<u8> {
    let value = values.entry(key.to_owned()).or_insert_with(|| b"0".to_vec());
    let Some(sum) = number_in(value).and_then(|n| n.checked_add(by)) else { return not_a_number() };
    *value = sum.to_string().into_bytes();
    format!(":{sum}\r\n").into_bytes()
}

fn number_in(text: &[u8]) -> Option<i64> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn not_a_number() -> Vec<u8> {
    b"-ERR value is not an integer or out of range\r\n".to_vec()
}

fn bulk(value: &[u8]) -> Vec<u8> {
    let mut reply = format!("${}\r\n", value.len()).into_bytes();
    reply.extend_from_slice(value);
    reply.extend_from_slice(b"\r\n");
    reply
}

fn locked(values: &Values) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Vec<u8>>> {
    values.lock().expect("nobody panics while holding it")
}
