"""Turns raw folders of frames and annotations into one prepared data set (COCO JSON); needs neither Paddle nor ppdet."""
