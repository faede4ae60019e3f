"""What both front ends build of: tensor operations on Values, in terms of the Graph's own."""
