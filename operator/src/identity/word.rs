//! A word that nobody guesses.

use ring::rand::{SecureRandom, SystemRandom};

/// Sixteen letters and digits. Empty where the system has no randomness to give, which is no word for anybody.
#[must_use]
pub fn secret_word() -> String {
    let mut bytes = [0; 8];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(_) => String::new(),
    }
}
