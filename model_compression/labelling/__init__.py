"""Labels for road images, made by several detectors under permissive licences and by people."""
