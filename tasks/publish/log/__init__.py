"""The Merkle log over the events: ordering them into it, publishing it, and checking it without trusting anybody."""
