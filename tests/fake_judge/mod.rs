//! A judge for tests: an HTTP server on a port of this machine that does what it is told, well or badly.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with a question.
#[allow(dead_code)] // not every test file needs all of them
#[derive(Debug, Clone)]
pub enum Act {
    /// Answers with this text of the model.
    Say(&'static str),
    /// Answers with a status, headers and a body.
    Status(u16, &'static str, &'static str),
    /// Answers with this text after a while.
    Slow(Duration, &'static str),
    /// Never answers.
    Hang,
    /// Closes the connection.
    Drop,
    /// Answers with a body that has no end.
    Endless,
}

/// A question as it came: headers (lower case) and body.
#[derive(Debug, Clone)]
pub struct Heard {
    #[allow(dead_code)] // not every test file needs both
    pub headers: Vec<String>,
    pub body: Value,
}

impl Heard {
    /// What the judge is asked to compare.
    #[allow(dead_code)] // not every test file needs it
    pub fn data(&self) -> Value {
        let user = self.body["messages"][1]["content"].as_str().unwrap();
        serde_json::from_str(user).unwrap()
    }
}

/// The server; it lives as long as the tests.
pub struct FakeJudge {
    pub url: String,
    pub heard: Arc<Mutex<Vec<Heard>>>,
}

impl FakeJudge {
    /// `act` says what happens to the question of a number, from 0.
    pub fn start(act: impl Fn(usize, &Heard) -> Act + Send + Sync + 'static) -> FakeJudge {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (kept, act) = (heard.clone(), Arc::new(act));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, act) = (kept.clone(), act.clone());
                std::thread::spawn(move || serve(stream, &kept, &*act));
            }
        });
        FakeJudge { url, heard }
    }

    #[allow(dead_code)] // not every test file needs it
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

/// One question per connection. Who hangs up in the middle is not missed.
fn serve(stream: TcpStream, heard: &Mutex<Vec<Heard>>, act: &dyn Fn(usize, &Heard) -> Act) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim() {
            "" => break,
            header => headers.push(header.to_string()),
        }
    }
    let length = headers.iter().find_map(|h| {
        let (name, value) = h.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().unwrap())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    let question = Heard { headers, body: serde_json::from_slice(&body).unwrap() };
    let number = {
        let mut heard = heard.lock().unwrap();
        heard.push(question.clone());
        heard.len() - 1
    };
    // A client that has given up is part of the test.
    let _ = reply(stream, act(number, &question));
}

fn reply(mut stream: TcpStream, act: Act) -> std::io::Result<()> {
    let mut send = |status: u16, headers: &str, body: &str| {
        let length = body.len();
        write!(
            stream,
            "HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let said = |text: &str| json!({"choices": [{"message": {"content": text}}]}).to_string();
    match act {
        Act::Say(text) => send(200, "", &said(text)),
        Act::Status(status, headers, body) => send(status, headers, body),
        Act::Slow(pause, text) => {
            std::thread::sleep(pause);
            send(200, "", &said(text))
        }
        Act::Hang => {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        Act::Drop => Ok(()),
        Act::Endless => {
            write!(stream, "HTTP/1.1 200 X\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 1 << 16])?;
            }
        }
    }
}
