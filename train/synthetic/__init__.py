"""Procedural textured streets: world, camera path and an OpenGL renderer that needs no GPU."""
