//! The web console, in a real browser, on real gateways with real traffic. Each page that a test closes has asked no other
//! origin for anything, and neither its scripts nor its policy had anything to complain of.

mod away;
mod fixture;
mod hostile;
mod looks;
mod orders;
mod served;
mod views;
