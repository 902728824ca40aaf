//! The window contract and its implementations: how redo bytes reach a follower.
