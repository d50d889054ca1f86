"""Structure from motion: depth and camera motion of recorded drives, to train on and to judge by.

``reconstruct`` finds points and camera poses with COLMAP, ``scale`` their size in metres.
"""
