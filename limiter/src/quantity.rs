//! Kubernetes quantities as numbers.

/// A quantity that is not negative, in its base unit: `500m` is 0.5, `512Mi` is 536870912, `48211n` is 0.000048211.
#[must_use]
pub fn quantity(text: &str) -> Option<f64> {
    let valid = |value: &f64| value.is_finite() && *value >= 0.0;
    // `1e3` and `1E3` are numbers; `1E` is an exa.
    if let Ok(value) = text.parse::<f64>() {
        return Some(value).filter(valid);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0_f64.powi(2),
        "Gi" => 1024.0_f64.powi(3),
        "Ti" => 1024.0_f64.powi(4),
        "Pi" => 1024.0_f64.powi(5),
        "Ei" => 1024.0_f64.powi(6),
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|value| value * factor).filter(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities_as_kubernetes_does() {
        for (text, value) in
            [("500m", 0.5), ("2", 2.0), ("1e3", 1000.0), ("512Mi", 536_870_912.0), ("1E", 1e18), ("0", 0.0)]
        {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in ["", "m", "-1", "-1m", "NaN", "inf", "1e400", "5 cores", "12é"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
