//! What the measurements share: the engines, the inputs and the clock, and the means to run whole programs.

pub mod course;
pub mod engine;
pub mod engines;
pub mod input;
pub mod matrix;
pub mod measure;
pub mod operations;
pub mod pairs;
pub mod patterns;
pub mod programs;
pub mod report;
