// Regions: the bursts are those of the region, in its order, and none crosses a boundary of 256
// bytes, so of 4 KiB neither.
module regions_properties (
    input logic        clk,
    input logic        rst,
    input logic        start,
    input logic        fresh,
    input logic        again,
    input logic [39:0] base,
    input logic [31:0] offset,
    input logic [23:0] beats,
    input logic        ready
);
  logic busy, valid;
  logic [39:0] address;
  logic [4:0] length;
  regions dut (
      .clk, .rst, .start, .fresh, .again, .base, .offset, .beats, .busy, .valid, .ready, .address,
      .length
  );

  logic [39:0] begun_at, next;
  logic [23:0] left;
  logic [4:0] length_before;
  logic [39:0] address_before;
  logic begun, known, first, waiting;
  initial begun = 1'b0;
  always_ff @(posedge clk) begin
    begun <= 1'b1;
    if (!begun) assume (rst);
    assume (base[3:0] == '0 && offset[3:0] == '0 && beats != '0 && !(fresh && again));
    if (rst) begin
      known   <= 1'b0;
      first   <= 1'b0;
      waiting <= 1'b0;
      left    <= '0;
    end else if (begun) begin
      // The first region has to be a fresh one.
      if (start) assume (known || fresh);
      if (start && !busy) begin
        known <= 1'b1;
        first <= 1'b1;
        left  <= beats;
        if (fresh) next <= base + 40'(offset);
        if (again) next <= begun_at;
      end
      if (valid) begin
        assert (busy);
        assert (left != '0);
        assert (address == next);
        assert (length != '0 && 24'(length) <= left && length <= 5'd16);
        assert ({1'b0, address[7:4]} + length <= 5'd16);
        // As long as can be.
        assert (24'(length) == left || {1'b0, address[7:4]} + length == 5'd16);
        if (first) begun_at <= address;
        first <= 1'b0;
        if (ready) begin
          next <= address + {31'd0, length, 4'd0};
          left <= left - 24'(length);
        end
      end
      assert (busy || left == '0);
      assert (!waiting || (valid && address == address_before && length == length_before));
      waiting <= valid && !ready;
      address_before <= address;
      length_before <= length;
    end
  end
endmodule
