//! Places on earth (RFC 1876).

/// The data of a LOC record, or the word that is wrong and what belongs there.
pub(super) fn octets(words: &[String]) -> Result<Vec<u8>, (usize, &'static str)> {
    let mut at = 0;
    let latitude =
        angle(words, &mut at, 90, ("N", "S"), "degrees, minutes, seconds and N or S: 52 22 23.0 N")?;
    let longitude =
        angle(words, &mut at, 180, ("E", "W"), "degrees, minutes, seconds and E or W: 4 53 32.0 E")?;
    let expected = "an altitude from -100000m to 42849672.95m";
    let altitude = words.get(at).and_then(|word| centimetres(word)).ok_or((at, expected))?;
    let altitude = u32::try_from(altitude + 10_000_000).map_err(|_| (at, expected))?;
    let mut sizes = [0x12, 0x16, 0x13];
    for (n, size) in sizes.iter_mut().enumerate() {
        let Some(word) = words.get(at + 1 + n) else { break };
        *size = centimetres(word).and_then(power).ok_or((at + 1 + n, "a size from 0m to 90000000m"))?;
    }
    if words.len() > at + 4 {
        return Err((at + 4, "nothing behind altitude, size and two precisions"));
    }
    let [size, horizontal, vertical] = sizes;
    let mut out = vec![0, size, horizontal, vertical];
    for number in [latitude, longitude, altitude] {
        out.extend(number.to_be_bytes());
    }
    Ok(out)
}

/// Thousandths of a second of arc, 2^31 being the equator or the prime meridian.
fn angle(
    words: &[String],
    at: &mut usize,
    most: u32,
    sides: (&str, &str),
    expected: &'static str,
) -> Result<u32, (usize, &'static str)> {
    let mut parts = [0_u32; 3];
    let limits = [most, 59, 59_999];
    for (n, (part, limit)) in parts.iter_mut().zip(limits).enumerate() {
        let Some(word) = words.get(*at) else { return Err((*at, expected)) };
        if n > 0 && [sides.0, sides.1].iter().any(|side| side.eq_ignore_ascii_case(word)) {
            break;
        }
        let read = if n == 2 { fixed(word, 3) } else { fixed(word, 0) };
        let fits = read.and_then(|it| u32::try_from(it).ok()).filter(|it| *it <= limit);
        *part = fits.ok_or((*at, expected))?;
        *at += 1;
    }
    let side = words.get(*at).ok_or((*at, expected))?;
    let [degrees, minutes, thousandths] = parts;
    let total = degrees * 3_600_000 + minutes * 60_000 + thousandths;
    let fits = total <= most * 3_600_000;
    let number = match () {
        () if fits && side.eq_ignore_ascii_case(sides.0) => (1 << 31) + total,
        () if fits && side.eq_ignore_ascii_case(sides.1) => (1 << 31) - total,
        () => return Err((*at, expected)),
    };
    *at += 1;
    Ok(number)
}

/// Metres with or without `m`, in centimetres.
fn centimetres(word: &str) -> Option<i64> {
    let text = word.strip_suffix(['m', 'M']).unwrap_or(word);
    match text.strip_prefix('-') {
        Some(text) => fixed(text, 2).map(|it| -it),
        None => fixed(text.strip_prefix('+').unwrap_or(text), 2),
    }
}

/// A number with at most so many decimal places, times ten to their power.
fn fixed(text: &str, places: usize) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || fraction.len() > places || !digits(whole) || !digits(fraction) {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok()
}

/// A size as a digit and a power of ten (RFC 1876 §2), rounded down.
fn power(centimetres: i64) -> Option<u8> {
    let (mut base, mut exponent) = (u64::try_from(centimetres).ok()?, 0_u8);
    while base > 9 {
        base /= 10;
        exponent += 1;
    }
    (exponent <= 9).then_some(u8::try_from(base).ok()? << 4 | exponent)
}
