#![allow(clippy::unwrap_used)]
use super::*;
use std::{cell::RefCell, collections::VecDeque};
use weir_wasm::Action::*;

/// Answers as told and writes down what it was shown.
struct Scripted {
    name: &'static str,
    answers: VecDeque<Action>,
    log: Rc<RefCell<Vec<String>>>,
    seen: Vec<usize>,
}

impl Filter for Scripted {
    fn wants(&self, _: Direction, _: Part) -> bool {
        true
    }
    fn call(&mut self, d: Direction, part: Part, size: usize, end: bool) -> Action {
        self.seen.push(size);
        let end = if end { "!" } else { "" };
        let d = if d == Direction::Request { "" } else { "<" };
        self.log.borrow_mut().push(match part {
            Part::Headers => format!("{d}{}.h{end}", self.name),
            Part::Body => format!("{d}{}.b{size}{end}", self.name),
            Part::Trailers => format!("{d}{}.t", self.name),
        });
        self.answers.pop_front().unwrap_or(Continue)
    }
    fn end(&mut self) {}
}

struct Rig {
    chain: Chain,
    stream: Rc<Stream>,
    log: Rc<RefCell<Vec<String>>>,
}

fn rig(scripts: &[&[Action]]) -> Rig {
    let (stream, log) = (Rc::new(Stream::default()), Rc::new(RefCell::default()));
    stream.clear();
    let filters = scripts.iter().zip(["a", "b", "c"]).map(|(answers, name)| {
        let answers = answers.iter().copied().collect();
        Box::new(Scripted { name, answers, log: Rc::clone(&log), seen: Vec::new() }) as Box<dyn Filter>
    });
    Rig { chain: Chain::new(stream.clone(), filters.collect()), stream, log }
}

impl Rig {
    fn said(&self) -> String {
        std::mem::take(&mut *self.log.borrow_mut()).join(" ")
    }
    fn resume(&mut self, plugin: usize, direction: Direction) {
        self.stream.post(Event::Resume { plugin, direction });
        self.chain.run_events().unwrap();
    }
    fn out(&mut self) -> String {
        let o = &mut self.chain.out[0];
        let head = match (o.head, o.head_ends) {
            (true, true) => "head!",
            (true, false) => "head",
            _ => "-",
        };
        let text = String::from_utf8_lossy(&std::mem::take(&mut o.body)).into_owned();
        format!("{head} {text}{}{}", if o.end { "!" } else { "" }, if o.trailers { "t" } else { "" })
    }
}
use Direction::{Request, Response};

#[test]
fn everything_passes_plugins_that_only_look() {
    let mut r = rig(&[&[], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"345", true);
    assert_eq!(r.said(), "a.h b.h a.b2 b.b2 a.b3! b.b3!");
    assert_eq!(r.out(), "head 12345!");
    r.chain.head(Response, true);
    assert_eq!(r.said(), "<b.h! <a.h!", "the other way round");
}

#[test]
fn a_head_without_a_body_is_held_and_resumed() {
    for stop in [StopIteration, StopAllIterationAndWatermark, StopAllIterationAndBuffer] {
        let mut r = rig(&[&[stop], &[]]);
        r.chain.head(Request, true);
        assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h!", "- "));
        r.resume(1, Request);
        assert_eq!(r.out(), "- ", "another plugin's resume does nothing");
        r.resume(0, Request);
        assert_eq!((r.said().as_str(), r.out().as_str()), ("b.h!", "head! !"));
        r.resume(0, Request);
        assert_eq!((r.said().as_str(), r.out().as_str()), ("", "head! !"), "a second resume is harmless");
    }
}

#[test]
fn stop_iteration_lets_the_body_be_seen() {
    let mut r = rig(&[&[StopIteration, StopIterationAndBuffer, StopIterationAndBuffer], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"3", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h a.b2 a.b3!", "- "), "sizes count what is held");
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("b.h b.b3!", "head 123!"));
}

#[test]
fn going_on_in_the_body_lets_the_head_go_on() {
    let mut r = rig(&[&[StopIteration, StopIterationAndBuffer, Continue], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"3", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h a.b2 a.b3! b.h b.b3!", "head 123!"));
}

#[test]
fn stop_all_shows_the_body_after_resuming() {
    let mut r = rig(&[&[StopAllIterationAndWatermark], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"3", true);
    assert_eq!(r.said(), "a.h");
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("b.h a.b3! b.b3!", "head 123!"));
}

#[test]
fn trailers_end_the_body_and_can_be_held() {
    let mut r = rig(&[&[Continue, Continue, StopIteration], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"1", false);
    r.stream.trailers[0].borrow_mut().add_named(b"x", b"y");
    r.chain.trailers(Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h b.h a.b1 b.b1 a.t", "head 1"));
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("b.t", "head !t"));

    let mut r = rig(&[&[StopAllIterationAndBuffer], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"1", false);
    r.chain.trailers(Request);
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h b.h a.b1 b.b1 a.t b.t", "head 1!t"));
}

#[test]
fn a_buffering_plugin_has_a_limit_and_a_watermark_has_none() {
    for (stop, error) in [(StopIterationAndBuffer, true), (StopIterationAndWatermark, false)] {
        let mut r = rig(&[&[Continue, stop, stop]]);
        r.stream.held_limit[0].set(4);
        r.chain.head(Request, false);
        r.chain.data(Request, b"123", false);
        assert!(r.chain.has_room(Request, 100));
        r.chain.data(Request, b"45", false);
        assert_eq!(r.chain.has_room(Request, 100), error);
        assert_eq!(matches!(r.chain.run_events(), Err(Stop::TooLarge(Request, _))), error);
    }
}

#[test]
fn bytes_can_be_swallowed_and_injected() {
    let mut r = rig(&[&[], &[Continue, StopIterationNoBuffer, StopIterationNoBuffer]]);
    r.chain.head(Response, false);
    r.chain.data(Response, b"one", false);
    r.chain.data(Response, b"two", true);
    assert_eq!(r.said(), "<b.h <a.h <b.b3 <b.b3!");
    r.stream.post(Event::Inject { plugin: 1, data: b"ONE".to_vec(), end: false });
    r.stream.post(Event::Inject { plugin: 1, data: b"TWO".to_vec(), end: true });
    r.chain.run_events().unwrap();
    assert_eq!(r.said(), "<a.b3 <a.b3!");
    assert_eq!((&r.chain.out[1].body[..], r.chain.out[1].end), (&b"ONETWO"[..], true));
    assert_eq!(r.stream.injected(1), 6, "they count until they leave");
    r.chain.out[1].body.clear();
    r.chain.run_events().unwrap();
    assert_eq!(r.stream.injected(1), 0);
}

#[test]
fn a_reply_stops_the_chain_where_it_is() {
    let mut r = rig(&[&[Continue], &[]]);
    r.stream.post(Event::Reply(Reply::new(403, "no")));
    r.stream.post(Event::Reply(Reply::new(404, "ignored")));
    r.chain.head(Request, true);
    assert_eq!(r.said(), "a.h!", "whatever the plugin returned");
    assert!(matches!(r.chain.run_events(), Err(Stop::Reply(r)) if r.status == 403));
    assert!(r.chain.run_events().is_ok());
}
