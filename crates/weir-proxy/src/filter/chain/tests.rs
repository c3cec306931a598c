#![allow(clippy::unwrap_used)]
use super::{super::FactoryContext, *};
use crate::{
    core::Core,
    detail::Detail,
    filter::config::FilterList,
    snapshot::{HcmBase, HcmRt, Servers},
    stream::Stream,
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::{Rc, Weak},
    task::Waker,
    time::Instant,
};
use weir_config::model::{HttpConnectionManager, HttpFilter, HttpFilterConfig};

/// Answers as told and writes down what it was shown.
pub struct Scripted {
    name: &'static str,
    answers: VecDeque<Flow>,
    log: Rc<RefCell<Vec<String>>>,
}

impl Scripted {
    pub fn call(&mut self, d: Direction, part: Part, size: usize, end: bool) -> Flow {
        let end = if end { "!" } else { "" };
        let d = if d == Direction::Request { "" } else { "<" };
        self.log.borrow_mut().push(match part {
            Part::Headers => format!("{d}{}.h{end}", self.name),
            Part::Body => format!("{d}{}.b{size}{end}", self.name),
            Part::Trailers => format!("{d}{}.t", self.name),
        });
        self.answers.pop_front().unwrap_or(Flow::Continue)
    }
}

/// The answers of a filter, short enough for a table.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Go,
    End,
    Hold(Stop),
    Refuse(u16),
}
use Answer::*;
use Stop::*;

impl From<Answer> for Flow {
    fn from(answer: Answer) -> Flow {
        match answer {
            Go => Flow::Continue,
            End => Flow::ContinueAndEndStream,
            Hold(stop) => Flow::Stop(stop),
            Refuse(status) => Flow::Reply(Box::new(Reply::new(status, Detail::Other("no".into()))), Flags::RATE_LIMITED),
        }
    }
}

fn context(stream: Rc<Stream>) -> FilterContext {
    let mut hcm = HttpConnectionManager::new("t".into(), "r".into());
    hcm.limits.buffer_limit_bytes = 4;
    let named = |name: &str| HttpFilter { name: name.into(), config: HttpFilterConfig::Fault(Arc::default()), disabled: false };
    let filters = FilterList::compile(&["a", "b", "c"].map(named), None, |_| None).unwrap();
    let rt = HcmRt::of(HcmBase::new(&Arc::new(hcm), Arc::new([]), filters, &mut Servers::default()));
    let core = Rc::new(Core::new(0, Instant::now()));
    let factory = FactoryContext { core, stats: Arc::default(), rt: Arc::new(rt), plugins: Weak::new() };
    FilterContext { stream, factory: Rc::new(factory) }
}

struct Rig {
    chain: Chain,
    stream: Rc<Stream>,
    log: Rc<RefCell<Vec<String>>>,
}

fn rig(scripts: &[&[Answer]]) -> Rig {
    rig_at(&scripts.iter().enumerate().map(|(position, script)| (position, *script)).collect::<Vec<_>>())
}

/// With the positions of the filters.
fn rig_at(scripts: &[(usize, &[Answer])]) -> Rig {
    rig_of(&scripts.iter().map(|(position, script)| (*position, BodyMode::Stream, *script)).collect::<Vec<_>>())
}

/// And what they want of bodies.
fn rig_of(scripts: &[(usize, BodyMode, &[Answer])]) -> Rig {
    let (stream, log) = (Rc::new(Stream::default()), Rc::new(RefCell::default()));
    stream.clear();
    let filters = scripts.iter().map(|(position, mode, answers)| {
        let name = ["a", "b", "c"][*position];
        let answers = answers.iter().copied().map(Flow::from).collect();
        Active { position: *position, filter: Filter::Scripted(Scripted { name, answers, log: Rc::clone(&log) }), bodies: [*mode; 2] }
    });
    let bodies = [scripts.iter().map(|(_, mode, _)| *mode).max().unwrap_or_default(); 2];
    Rig { chain: Chain::with(context(stream.clone()), None, filters.collect(), bodies), stream, log }
}

impl Rig {
    fn said(&self) -> String {
        std::mem::take(&mut *self.log.borrow_mut()).join(" ")
    }
    fn resume(&mut self, plugin: usize, direction: Direction) {
        self.stream.post(Event::Resume { plugin, direction });
        self.run().unwrap();
    }
    fn run(&mut self) -> Result<(), Ended> {
        self.chain.run_events(&mut Context::from_waker(Waker::noop()))
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
    for stop in [Iteration, AllAndWatermark, AllAndBuffer] {
        let mut r = rig(&[&[Hold(stop)], &[]]);
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
    let mut r = rig(&[&[Hold(Iteration), Hold(Iteration), Hold(Iteration)], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"3", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h a.b2 a.b3!", "- "), "sizes count what is held");
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("b.h b.b3!", "head 123!"));
}

#[test]
fn going_on_in_the_body_lets_the_head_go_on() {
    let mut r = rig(&[&[Hold(Iteration), Hold(Iteration), Go], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"3", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h a.b2 a.b3! b.h b.b3!", "head 123!"));
}

#[test]
fn stop_all_shows_the_body_after_resuming() {
    let mut r = rig(&[&[Hold(AllAndWatermark)], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", false);
    r.chain.data(Request, b"3", true);
    assert_eq!(r.said(), "a.h");
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("b.h a.b3! b.b3!", "head 123!"));
}

#[test]
fn trailers_end_the_body_and_can_be_held() {
    let mut r = rig(&[&[Go, Go, Hold(Iteration)], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"1", false);
    r.stream.trailers[0].borrow_mut().add_named(b"x", b"y");
    r.chain.trailers(Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h b.h a.b1 b.b1 a.t", "head 1"));
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("b.t", "head !t"));

    let mut r = rig(&[&[Hold(AllAndBuffer)], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"1", false);
    r.chain.trailers(Request);
    r.resume(0, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h b.h a.b1 b.b1 a.t b.t", "head 1!t"));
}

#[test]
fn a_buffering_plugin_has_a_limit_and_a_watermark_has_none() {
    for (stop, error) in [(Iteration, true), (Watermark, false)] {
        let mut r = rig(&[&[Go, Hold(stop), Hold(stop)]]);
        r.stream.held_limit[0].set(4);
        r.chain.head(Request, false);
        r.chain.data(Request, b"123", false);
        assert!(r.chain.has_room(Request, 100));
        r.chain.data(Request, b"45", false);
        assert_eq!(r.chain.has_room(Request, 100), error);
        assert_eq!(matches!(r.run(), Err(Ended::TooLarge(Request, _))), error);
    }
}

#[test]
fn bytes_can_be_swallowed_and_injected() {
    let mut r = rig(&[&[], &[Go, Hold(NoBuffer), Hold(NoBuffer)]]);
    r.chain.head(Response, false);
    r.chain.data(Response, b"one", false);
    r.chain.data(Response, b"two", true);
    assert_eq!(r.said(), "<b.h <a.h <b.b3 <b.b3!");
    r.stream.post(Event::Inject { plugin: 1, data: b"ONE".to_vec(), end: false });
    r.stream.post(Event::Inject { plugin: 1, data: b"TWO".to_vec(), end: true });
    r.run().unwrap();
    assert_eq!(r.said(), "<a.b3 <a.b3!");
    assert_eq!((&r.chain.out[1].body[..], r.chain.out[1].end), (&b"ONETWO"[..], true));
    assert_eq!(r.stream.injected(1), 6, "they count until they leave");
    r.chain.out[1].body.clear();
    r.run().unwrap();
    assert_eq!(r.stream.injected(1), 0);
}

#[test]
fn a_reply_stops_the_chain_where_it_is() {
    let mut r = rig(&[&[Go], &[]]);
    r.stream.post(Event::Reply(Reply::new(403, Detail::Other("no".into()))));
    r.stream.post(Event::Reply(Reply::new(404, Detail::Other("ignored".into()))));
    r.chain.head(Request, true);
    assert_eq!(r.said(), "a.h!", "whatever the plugin returned");
    assert!(matches!(r.run(), Err(Ended::Reply(r, _)) if r.status == 403));
    assert!(r.run().is_ok());
}

#[test]
fn a_filter_answers_or_ends_the_stream_itself() {
    let mut r = rig(&[&[Refuse(429)], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h", "- "), "nobody behind it sees the request");
    assert!(matches!(r.run(), Err(Ended::Reply(r, flags)) if r.status == 429 && flags.has(Flags::RATE_LIMITED)));

    let mut r = rig(&[&[Go], &[Go, Refuse(400)], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h b.h c.h a.b2! b.b2!", "head "));
    assert!(matches!(r.run(), Err(Ended::Reply(r, _)) if r.status == 400));

    let mut r = rig(&[&[], &[End], &[]]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", true);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h b.h c.h! a.b2!", "head! !"), "its body is dropped");
}

#[test]
fn filters_keep_their_positions_whatever_the_route_disables() {
    let mut r = rig_at(&[(0, &[]), (2, &[Hold(Iteration), Hold(Iteration)])]);
    r.chain.head(Request, false);
    r.chain.data(Request, b"12", true);
    r.resume(2, Request);
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h c.h a.b2! c.b2!", "head 12!"));
    r.chain.head(Response, false);
    r.chain.data(Response, b"345", true);
    assert_eq!((r.said().as_str(), &r.chain.out[1].body[..]), ("<c.h <a.h <c.b3! <a.b3!", &b"345"[..]));
}

#[test]
fn another_response_begins_again() {
    let mut r = rig(&[&[], &[Go, Hold(AllAndBuffer)]]);
    r.chain.head(Request, true);
    r.chain.head(Response, false);
    r.chain.data(Response, b"old", false);
    assert_eq!(r.said(), "a.h! b.h! <b.h");
    r.chain.restart_response(true);
    r.chain.head(Response, false);
    r.chain.data(Response, b"new", true);
    assert_eq!((r.said().as_str(), &r.chain.out[1].body[..]), ("<b.h <a.h <b.b3! <a.b3!", &b"new"[..]));
}

/// What happens to a message, in order; `!` at the end of data ends the body, `t` are trailers, `r` resumes the first filter.
fn play(r: &mut Rig, d: Direction, events: &str) -> Result<(), Ended> {
    for event in events.split(' ') {
        match event {
            "head" => r.chain.head(d, false),
            "head!" => r.chain.head(d, true),
            "t" => {
                r.stream.trailers[d as usize].borrow_mut().add_named(b"x", b"y");
                r.chain.trailers(d);
            }
            "r" => r.stream.post(Event::Resume { plugin: 0, direction: d }),
            data => r.chain.data(d, data.trim_end_matches('!').as_bytes(), data.ends_with('!')),
        }
        r.run()?;
    }
    Ok(())
}

#[test]
fn a_filter_that_wants_the_whole_body_is_shown_it_once() {
    use BodyMode::{Stream, Whole};
    let go: &[Answer] = &[];
    let stop: &[Answer] = &[Go, Hold(Iteration)];
    type Row<'a> = (&'a [(usize, BodyMode, &'a [Answer])], &'a str, &'a str, &'a str);
    let table: &[Row] = &[
        (&[(0, Whole, go), (1, Stream, go)], "head 12 3!", "a.h a.b3! b.h b.b3!", "head 123!"),
        (&[(0, Whole, go), (1, Stream, go)], "head 12", "a.h", "- "),
        (&[(0, Whole, go), (1, Stream, go)], "head!", "a.h! b.h!", "head! !"),
        // One filter holds the body; the next one gets it in one piece.
        (&[(0, Stream, go), (1, Whole, go), (2, Whole, go)], "head 12 3!", "a.h b.h a.b2 a.b1! b.b3! c.h c.b3!", "head 123!"),
        // Trailers end it.
        (&[(0, Whole, go), (1, Stream, go)], "head 12 3 t", "a.h a.b3 a.t b.h b.b3 b.t", "head 123!t"),
        (&[(0, Whole, go)], "head t", "a.h a.b0 a.t", "head !t"),
        // A filter that stops keeps the head, too.
        (&[(0, Whole, stop), (1, Stream, go)], "head 12!", "a.h a.b2!", "- "),
        (&[(0, Whole, stop), (1, Stream, go)], "head 12! r", "a.h a.b2! b.h b.b2!", "head 12!"),
        (&[(0, Whole, stop), (1, Stream, go)], "head 12 t r", "a.h a.b2 b.h b.b2 a.t b.t", "head 12!t"),
        (&[(0, Whole, &[Hold(AllAndBuffer)])], "head 1 r 2!", "a.h a.b2!", "head 12!"),
        (&[(0, Whole, &[Hold(AllAndBuffer)])], "head 12! r", "a.h a.b2!", "head 12!"),
        (&[(0, Whole, &[Hold(AllAndBuffer)])], "head 12 t r", "a.h a.b2 a.t", "head 12!t"),
        (&[(0, Whole, &[Hold(AllAndBuffer)])], "head! r", "a.h!", "head! !"),
        (&[(0, Whole, &[End])], "head 12!", "a.h", "head! !"),
    ];
    for (scripts, events, shown, out) in table {
        let mut r = rig_of(scripts);
        play(&mut r, Request, events).unwrap();
        assert_eq!((r.said().as_str(), r.out().as_str()), (*shown, *out), "{events}");
    }
}

#[test]
fn a_whole_body_has_the_limit_of_the_connection_manager() {
    for d in [Request, Response] {
        for (events, fits) in [("head 1234!", true), ("head 12 345", false), ("head 12345!", false)] {
            let mut r = rig_of(&[(0, BodyMode::Whole, &[])]);
            let played = play(&mut r, d, events);
            match fits {
                true => assert!(played.is_ok(), "{d:?} {events}"),
                false => assert!(matches!(played, Err(Ended::TooLarge(of, _)) if of == d), "{d:?} {events}: {played:?}"),
            }
        }
    }
    let mut r = rig_of(&[(0, BodyMode::Whole, &[Go, Refuse(400)])]);
    assert!(matches!(play(&mut r, Request, "head 12 3!"), Err(Ended::Reply(reply, _)) if reply.status == 400));
    assert_eq!((r.said().as_str(), r.out().as_str()), ("a.h a.b3!", "- "));
}

#[test]
fn a_body_that_no_filter_may_want_is_not_asked_for() {
    for (modes, wanted) in
        [([BodyMode::None; 2], false), ([BodyMode::None, BodyMode::Stream], true), ([BodyMode::Whole, BodyMode::None], true)]
    {
        let mut r = rig_of(&[(0, modes[0], &[]), (1, modes[1], &[])]);
        r.chain.head(Request, false);
        assert_eq!(r.chain.wants_body(Request), wanted, "{modes:?}");
    }
}
