//! The `bit` library: operations on 32-bit integers.
use mlua::{Lua, Table, Variadic};

fn word(number: f64) -> u32 {
    (number.round_ties_even() as i64) as u32
}

fn number(word: u32) -> f64 {
    f64::from(word.cast_signed())
}

pub fn library(lua: &Lua) -> mlua::Result<Table> {
    let bit = lua.create_table()?;
    let fold = |f: fn(u32, u32) -> u32| {
        lua.create_function(move |_, args: Variadic<f64>| {
            let all = args.iter().map(|n| word(*n)).reduce(f);
            all.map(number).ok_or_else(|| mlua::Error::runtime("number expected, got no value"))
        })
    };
    bit.raw_set("band", fold(|a, b| a & b)?)?;
    bit.raw_set("bor", fold(|a, b| a | b)?)?;
    bit.raw_set("bxor", fold(|a, b| a ^ b)?)?;
    let shift = |f: fn(u32, u32) -> u32| lua.create_function(move |_, (n, by): (f64, f64)| Ok(number(f(word(n), word(by) & 31))));
    bit.raw_set("lshift", shift(|n, by| n << by)?)?;
    bit.raw_set("rshift", shift(|n, by| n >> by)?)?;
    bit.raw_set("arshift", shift(|n, by| (n.cast_signed() >> by).cast_unsigned())?)?;
    bit.raw_set("rol", shift(u32::rotate_left)?)?;
    bit.raw_set("ror", shift(u32::rotate_right)?)?;
    bit.raw_set("bnot", lua.create_function(|_, n: f64| Ok(number(!word(n))))?)?;
    bit.raw_set("tobit", lua.create_function(|_, n: f64| Ok(number(word(n))))?)?;
    bit.raw_set("bswap", lua.create_function(|_, n: f64| Ok(number(word(n).swap_bytes())))?)?;
    bit.raw_set(
        "tohex",
        lua.create_function(|_, (n, digits): (f64, Option<f64>)| {
            let digits = digits.unwrap_or(8.0) as i64;
            let text = format!("{:08x}", word(n));
            let width = usize::try_from(digits.unsigned_abs()).unwrap_or(8).min(8);
            let text = &text[8 - width..];
            Ok(if digits < 0 { text.to_uppercase() } else { text.to_string() })
        })?,
    )?;
    Ok(bit)
}
