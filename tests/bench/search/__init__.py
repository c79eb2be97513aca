"""What stopping weak trials saves: measured on real studies, and simulated at a scale that one machine has not."""
