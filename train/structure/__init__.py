"""Structure from motion: what a drive itself tells about depth and motion, as a teacher and judge.

``reconstruct`` finds points and camera poses with COLMAP, ``scale`` metres for them.
"""
