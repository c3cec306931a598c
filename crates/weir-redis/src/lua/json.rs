//! The `cjson` library: JSON from and to Lua's values.
use crate::number;
use mlua::{Lua, Table, Value};

/// Tables within tables, as in cjson.
const MAX_DEPTH: usize = 1000;

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let cjson = lua.create_table()?;
    cjson.raw_set(
        "encode",
        lua.create_function(|lua, value: Value| {
            let mut out = Vec::new();
            encode(&value, 0, &mut out)?;
            lua.create_string(&out)
        })?,
    )?;
    cjson.raw_set(
        "decode",
        lua.create_function(|lua, text: mlua::LuaString| {
            let text = text.as_bytes().to_vec();
            Decoder { lua, text: &text, at: 0 }.document()
        })?,
    )?;
    cjson.raw_set("null", Value::NULL)?;
    Ok(cjson)
}

fn fail<T>(text: impl Into<String>) -> mlua::Result<T> {
    Err(mlua::Error::external(super::raised::Raised(format!("ERR {}", text.into()))))
}

fn encode(value: &Value, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    match value {
        Value::Nil => out.extend_from_slice(b"null"),
        Value::LightUserData(_) => out.extend_from_slice(b"null"),
        Value::Boolean(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Integer(n) => out.extend_from_slice(number::general(*n as f64, 14).as_bytes()),
        Value::Number(n) if !n.is_finite() => return fail("Cannot serialise number: must not be NaN or Inf"),
        Value::Number(n) => out.extend_from_slice(number::general(*n, 14).as_bytes()),
        Value::String(text) => encode_string(&text.as_bytes(), out),
        Value::Table(_) if depth >= MAX_DEPTH => return fail("Cannot serialise, excessive depth (1001)"),
        Value::Table(table) => encode_table(table, depth + 1, out)?,
        other => return fail(format!("Cannot serialise {}: type not supported", other.type_name())),
    }
    Ok(())
}

/// A table with keys 1 to n is an array; holes in it are null.
fn encode_table(table: &Table, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    let (mut most, mut count, mut array) = (0usize, 0usize, true);
    for pair in table.pairs::<Value, Value>() {
        let (key, _) = pair?;
        match super::convert::number_of(&key) {
            Some(n) if n >= 1.0 && n.fract() == 0.0 => {
                most = most.max(n as usize);
                count += 1;
            }
            _ => array = false,
        }
    }
    if !array || count == 0 {
        return encode_object(table, depth, out);
    }
    if most > count.saturating_mul(2) && most > 10 {
        return fail("Cannot serialise table: excessively sparse array");
    }
    out.push(b'[');
    for at in 1..=most {
        if at > 1 {
            out.push(b',');
        }
        encode(&table.raw_get::<Value>(at)?, depth, out)?;
    }
    out.push(b']');
    Ok(())
}

fn encode_object(table: &Table, depth: usize, out: &mut Vec<u8>) -> mlua::Result<()> {
    out.push(b'{');
    let mut first = true;
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        match &key {
            Value::String(text) => encode_string(&text.as_bytes(), out),
            Value::Integer(_) | Value::Number(_) => {
                out.push(b'"');
                encode(&key, depth, out)?;
                out.push(b'"');
            }
            _ => return fail("Cannot serialise table: table key must be a number or string"),
        }
        out.push(b':');
        encode(&value, depth, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn encode_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'/' => out.extend_from_slice(b"\\/"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0..0x20 | 0x7f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            other => out.push(*other),
        }
    }
    out.push(b'"');
}

struct Decoder<'a> {
    lua: &'a Lua,
    text: &'a [u8],
    at: usize,
}

impl Decoder<'_> {
    fn document(mut self) -> mlua::Result<Value> {
        let value = self.value(0)?;
        self.blanks();
        if self.at < self.text.len() {
            return self.unexpected("the end");
        }
        Ok(value)
    }

    fn blanks(&mut self) {
        while self.text.get(self.at).is_some_and(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn unexpected<T>(&self, wanted: &str) -> mlua::Result<T> {
        fail(format!("Expected {wanted} but found invalid token at character {}", self.at + 1))
    }

    fn take(&mut self, byte: u8) -> bool {
        self.blanks();
        let found = self.text.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.text[self.at..].starts_with(word.as_bytes());
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> mlua::Result<Value> {
        if depth > MAX_DEPTH {
            return fail(format!("Found too many nested data structures ({})", MAX_DEPTH + 1));
        }
        self.blanks();
        match self.text.get(self.at) {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let text = self.string()?;
                Ok(Value::String(self.lua.create_string(&text)?))
            }
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ if self.word("true") => Ok(Value::Boolean(true)),
            _ if self.word("false") => Ok(Value::Boolean(false)),
            _ if self.word("null") => Ok(Value::NULL),
            None => fail(format!("Expected value but found T_END at character {}", self.at + 1)),
            Some(_) => self.unexpected("value"),
        }
    }

    fn object(&mut self, depth: usize) -> mlua::Result<Value> {
        self.at += 1;
        let table = self.lua.create_table()?;
        if self.take(b'}') {
            return Ok(Value::Table(table));
        }
        loop {
            self.blanks();
            if self.text.get(self.at) != Some(&b'"') {
                return self.unexpected("object key string");
            }
            let key = self.string()?;
            if !self.take(b':') {
                return self.unexpected("colon");
            }
            let value = self.value(depth + 1)?;
            table.raw_set(self.lua.create_string(&key)?, value)?;
            if self.take(b'}') {
                return Ok(Value::Table(table));
            }
            if !self.take(b',') {
                return self.unexpected("comma or object end");
            }
        }
    }

    fn array(&mut self, depth: usize) -> mlua::Result<Value> {
        self.at += 1;
        let table = self.lua.create_table()?;
        if self.take(b']') {
            return Ok(Value::Table(table));
        }
        for at in 1.. {
            let value = self.value(depth + 1)?;
            table.raw_set(at, value)?;
            if self.take(b']') {
                break;
            }
            if !self.take(b',') {
                return self.unexpected("comma or array end");
            }
        }
        Ok(Value::Table(table))
    }

    fn number(&mut self) -> mlua::Result<Value> {
        let from = self.at;
        while self.text.get(self.at).is_some_and(|b| matches!(b, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        match number::float(&self.text[from..self.at]) {
            Some(n) => Ok(Value::Number(n)),
            None => fail(format!("Expected value but found invalid number at character {}", from + 1)),
        }
    }

    fn string(&mut self) -> mlua::Result<Vec<u8>> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let Some(byte) = self.text.get(self.at).copied() else { return self.unexpected("string end") };
            self.at += 1;
            match byte {
                b'"' => return Ok(out),
                b'\\' => self.escape(&mut out)?,
                0..0x20 => return self.unexpected("string end"),
                other => out.push(other),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> mlua::Result<()> {
        let Some(byte) = self.text.get(self.at).copied() else { return self.unexpected("escape code") };
        self.at += 1;
        out.push(match byte {
            b'b' => 0x08,
            b't' => b'\t',
            b'n' => b'\n',
            b'f' => 0x0c,
            b'r' => b'\r',
            b'"' | b'\\' | b'/' => byte,
            b'u' => {
                let first = self.unit()?;
                let code = match first {
                    0xd800..0xdc00 if self.word("\\u") => {
                        let second = self.unit()?;
                        0x10000 + ((first - 0xd800) << 10) + (second.wrapping_sub(0xdc00) & 0x3ff)
                    }
                    other => other,
                };
                let Some(c) = char::from_u32(code) else { return self.unexpected("unicode escape code") };
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.unexpected("escape code"),
        });
        Ok(())
    }

    fn unit(&mut self) -> mlua::Result<u32> {
        let digits = self.text.get(self.at..self.at + 4).and_then(|d| std::str::from_utf8(d).ok());
        let Some(code) = digits.and_then(|d| u32::from_str_radix(d, 16).ok()) else { return self.unexpected("unicode escape code") };
        self.at += 4;
        Ok(code)
    }
}
