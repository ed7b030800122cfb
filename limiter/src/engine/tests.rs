mod classes;
mod explanation;
mod harness;
mod missing;
mod properties;
mod resume;
mod scenario;
