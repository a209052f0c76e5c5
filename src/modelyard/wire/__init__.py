"""Wire formats: conversion between vendors' JSON and the internal types, in both
directions. One module per format, without I/O."""
