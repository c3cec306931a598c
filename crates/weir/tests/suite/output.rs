//! What a program prints, in the order in which it was printed.
use std::{
    io::{PipeReader, PipeWriter, Read, Write},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
};

/// A thread collects the lines.
pub struct Output {
    lines: Arc<Mutex<Vec<String>>>,
    /// The other end of the program's pipe.
    writer: PipeWriter,
    marks: Mutex<Receiver<()>>,
}

impl Output {
    /// Written to the pipe by the harness: what came before it has been collected once it is read.
    const MARK: u8 = 1;

    pub fn collect(mut from: PipeReader, writer: PipeWriter) -> Output {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (mark, marks) = channel();
        let into = lines.clone();
        std::thread::spawn(move || {
            let (mut line, mut bytes) = (Vec::new(), [0; 16384]);
            while let Ok(read @ 1..) = from.read(&mut bytes) {
                for &byte in &bytes[..read] {
                    match byte {
                        b'\n' => into.lock().unwrap().push(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned()),
                        Self::MARK if mark.send(()).is_err() => return,
                        Self::MARK => {}
                        _ => line.push(byte),
                    }
                }
            }
        });
        Output { lines, writer, marks: Mutex::new(marks) }
    }

    /// Every whole line that was in the pipe when this was called.
    pub fn lines(&self) -> Vec<String> {
        let marks = self.marks.lock().unwrap();
        (&self.writer).write_all(&[Self::MARK]).unwrap();
        marks.recv().unwrap();
        self.lines.lock().unwrap().clone()
    }
}
