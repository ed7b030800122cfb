//! Evaluates conditions and expressions over observations; keeps how long each held part has been true.
