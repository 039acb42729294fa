"""Turns raw folders of frames and annotations into prepared data sets (COCO JSON); needs neither Paddle nor ppdet."""
